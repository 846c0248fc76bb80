//! The channel between the two sides, by its name.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use nixl_executor::channel::etcd::EtcdOptions;
use nixl_executor::channel::http::{HttpOptions, RouterOptions};
use nixl_executor::channel::nats::NatsOptions;
use nixl_executor::channel::tcp::{Server, ServerOptions, TcpOptions};
use nixl_executor::channel::{
    Channel, ChannelOptions, Exposure, Hub, WorkerName, etcd, http, nats, tcp,
};
use tokio::net::TcpListener;

/// How long a request waits for its reply.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Kind {
    Http,
    Tcp,
    Nats,
    Etcd,
}

#[derive(clap::Args)]
pub(crate) struct Place {
    /// The channel that carries metadata and tickets.
    #[arg(long, value_enum, default_value = "http")]
    channel: Kind,
    /// The address of its server, if it is not the usual one on this host.
    #[arg(long)]
    at: Option<String>,
}

impl Place {
    fn at(&self) -> &str {
        self.at.as_deref().unwrap_or(match self.channel {
            Kind::Http => "http://127.0.0.1:8200",
            Kind::Tcp => "127.0.0.1:8200",
            Kind::Nats => "nats://127.0.0.1:4222",
            Kind::Etcd => "http://127.0.0.1:2379",
        })
    }

    /// Connects; the server need not be there yet.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn Channel>> {
        let options = ChannelOptions::new();
        Ok(match self.channel {
            Kind::Http => http::connect(self.at(), HttpOptions::new(), options)?,
            Kind::Tcp => tcp::connect(self.at(), TcpOptions::new(), options)?,
            Kind::Nats => nats::connect(self.at(), NatsOptions::new(), options).await?,
            Kind::Etcd => etcd::connect(self.at(), EtcdOptions::new(), options)?,
        })
    }

    /// Serves a channel that has no server of its own. Prints the address.
    pub(crate) async fn serve(&self) -> Result<()> {
        let options = ChannelOptions::new();
        match self.channel {
            Kind::Http => {
                let host = self.at().strip_prefix("http://").context("no address of HTTP")?;
                let listener = TcpListener::bind(host).await.context("cannot listen")?;
                println!("http://{}", listener.local_addr()?);
                // An application would nest it beside its own routes.
                let guarded = RouterOptions::new(Exposure::ThisHost);
                let routes = Router::new().merge(http::router(Hub::default(), guarded, options));
                axum::serve(listener, routes).await?;
            }
            Kind::Tcp => {
                let server =
                    Server::bind(self.at(), Hub::default(), ServerOptions::new(), options).await?;
                println!("{}", server.address());
                std::future::pending::<()>().await;
            }
            Kind::Nats => bail!("NATS has a server of its own: nats-server --jetstream"),
            Kind::Etcd => bail!("etcd is a server itself"),
        }
        Ok(())
    }
}

pub(crate) fn worker(name: &str) -> Result<WorkerName> {
    Ok(WorkerName::new(name)?)
}
