//! The builder of connectors.

use std::sync::Arc;
use std::time::Duration;

use nixl_device::{MachineIdentity, fill_random};
use nixl_metadata::{HostIdentity, MessageVersions, PeerInfo};
use nixl_ops::{
    ClaimDemand, Clock, Driver, DriverConfig, Executor, RemoteSlots, SystemClock, Transport,
    TransportExecutor,
};

use crate::admission::{Admission, TransferLimits};
use crate::connection::Connection;
use crate::connector::Offers;
use crate::control::ControlThread;
use crate::{Connector, ConnectorError};

/// Configures a [`Connector`].
#[derive(Debug)]
pub struct ConnectorBuilder {
    name: Option<String>,
    timeout: Option<Duration>,
    executor: Arc<dyn Executor>,
    clock: Arc<dyn Clock>,
    driver: DriverConfig,
    transport: Option<Arc<dyn Transport>>,
    offers: Offers,
    limits: TransferLimits,
    #[cfg(feature = "nixl")]
    nixl: crate::nixl::NixlOptions,
}

impl ConnectorBuilder {
    /// The default deadline of operations.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
    /// The longest name, in bytes.
    pub const MAX_NAME: usize = 128;

    pub(crate) fn new() -> Self {
        Self {
            name: None,
            timeout: Some(Self::DEFAULT_TIMEOUT),
            executor: Arc::new(TransportExecutor),
            clock: Arc::new(SystemClock::new()),
            driver: DriverConfig::default(),
            transport: None,
            offers: Offers::default(),
            limits: TransferLimits::new(),
            #[cfg(feature = "nixl")]
            nixl: crate::nixl::NixlOptions::new(),
        }
    }

    /// The prefix of the connector's name, by default the name of the machine. An incarnation is appended, so two connectors
    /// never have the same name. At most [`MAX_NAME`](Self::MAX_NAME) bytes of printable ASCII.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The deadline of operations without their own, by default [30 seconds](Self::DEFAULT_TIMEOUT).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// No default deadline: an operation without its own waits for ever for a peer that never reports.
    #[must_use]
    pub fn no_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// The executor, which decides the path of the bytes; by default the transport moves all.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }

    /// The clock of deadlines and waits; by default the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Settings of the completion driver.
    #[must_use]
    pub fn driver(mut self, config: DriverConfig) -> Self {
        self.driver = config;
        self
    }

    /// Bounds on transfers of [blocks](crate::RemoteExport::read_blocks) in flight and waiting.
    #[must_use]
    pub fn transfer_limits(mut self, limits: TransferLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Refuses to offer host memory for writing that this library did not allocate (`Vec`, `Bytes`, mapped files, tensors of
    /// other frameworks): [`ConnectorError::ForeignMemory`].
    ///
    /// UCX's TCP and CMA transports write to an address even after its memory was reused. A peer outside the protocol that uses
    /// an offer after its end then writes to memory that the application has back, or ends this process. Memory of
    /// [`Connector::buffer`] and [`Region::shared`](nixl_descriptor::Region::shared) stays mapped for that time, without an
    /// owner.
    #[must_use]
    pub fn refuse_foreign_memory(mut self) -> Self {
        self.offers.refuse_foreign = true;
        self
    }

    /// The initiators that must claim a writable offer before they write, unless the operation's
    /// [options](nixl_ops::OperationOptions::claims) say otherwise; by default those of the owner's
    /// [host](ClaimDemand::SameHost). A server with short-lived peers on other hosts may demand claims
    /// [everywhere](ClaimDemand::Everywhere): the memory of an unclaimed offer is then free at once when the offer is given up,
    /// even with unreachable peers, at the cost of one round trip of messages before each write between hosts.
    #[must_use]
    pub fn claims(mut self, claims: ClaimDemand) -> Self {
        self.offers.claims = claims;
        self
    }

    /// The time in which initiators may begin to use an offer, unless the operation's
    /// [options](nixl_ops::OperationOptions::life_time) say otherwise; by default 10 minutes.
    #[must_use]
    pub fn offer_life_time(mut self, life_time: Duration) -> Self {
        self.offers.life_time = life_time;
        self
    }

    /// The bound on the difference between two hosts' clocks, by default 60 seconds. It extends the life time of an offer for
    /// its owner. Hosts with a larger difference may use an offer whose memory was freed.
    #[must_use]
    pub fn clock_skew(mut self, most: Duration) -> Self {
        self.driver = self.driver.clock_skew(most);
        self
    }

    /// The engine; by default NIXL with its UCX backend. A transport belongs to one connector.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Settings of NIXL and UCX, without another [engine](Self::transport); by default UCX with all devices and transports.
    #[cfg(feature = "nixl")]
    #[must_use]
    pub fn nixl(mut self, options: crate::nixl::NixlOptions) -> Self {
        self.nixl = options;
        self
    }

    /// Builds the connector. The engine starts on a thread of the connection.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::BadName`], [`ConnectorError::Thread`], [`ConnectorError::NoTransport`], or, without NIXL on the
    /// machine, `ConnectorError::Nixl` with the searched places. In a process that was forked from one with a connector also
    /// [`ConnectorError::ForkedAmidThreads`], `ConnectorError::Nixl` if the engine cannot be reset there, and
    /// [`TransportError::Forked`](nixl_ops::TransportError::Forked) for an executor of the other process.
    pub async fn build(self) -> Result<Connector, ConnectorError> {
        self.executor.check_process()?;
        let local = MachineIdentity::discover();
        let hostname = local.hostname().unwrap_or("unknown");
        let boot_id = local.boot_id().unwrap_or_default();
        let host = HostIdentity::new(hostname, boot_id, std::process::id())?
            .with_pid_namespace(local.pid_namespace())
            .with_ipc_namespace(local.ipc_namespace());
        // What makes numbers later panics without this.
        let mut incarnation = [0; 16];
        fill_random(&mut incarnation)
            .map_err(|error| ConnectorError::NoRandomness { error: error.into() })?;
        let incarnation = u128::from_ne_bytes(incarnation);
        let prefix = self.name.unwrap_or_else(|| printable(hostname));
        check_name(&prefix)?;
        let control = ControlThread::spawn()?;
        #[cfg(not(feature = "nixl"))]
        let transport = self.transport.ok_or(ConnectorError::NoTransport)?;
        #[cfg(feature = "nixl")]
        let transport = match self.transport {
            Some(transport) => transport,
            None => {
                let (name, thread) = (format!("{prefix}-{incarnation:032x}"), control.clone());
                let options = self.nixl;
                let open = move || crate::nixl::NixlTransport::open_with(&name, thread, &options);
                Arc::new(control.run(open).await??) as Arc<dyn Transport>
            }
        };
        let versions = MessageVersions::default()
            .with_doorbell(RemoteSlots::VERSION)
            .with_claims(Driver::LAYER_WAITS_SINCE);
        let info = PeerInfo::new(transport.agent_name(), incarnation, host)?
            .with_transports([transport.name()])?
            .with_versions(versions);
        let Self { executor, clock, driver, timeout, offers, limits, .. } = self;
        let admission = Admission::new(limits);
        let times = (clock, driver);
        let connection = Connection::new(transport, control, executor, times, info, admission)?;
        Ok(Connector::new(connection, timeout, offers))
    }
}

/// The host's name as the beginning of a connector's.
fn printable(hostname: &str) -> String {
    let name = hostname.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' });
    let name: String = name.take(ConnectorBuilder::MAX_NAME).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

fn check_name(name: &str) -> Result<(), ConnectorError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > ConnectorBuilder::MAX_NAME {
        "it is longer than 128 bytes"
    } else if !name.bytes().all(|b| b.is_ascii_graphic()) {
        "it must be printable ASCII without spaces"
    } else {
        return Ok(());
    };
    let shown = name.chars().take(40).collect();
    Err(ConnectorError::BadName { name: shown, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_host_begins_one_of_a_connector() {
        for (host, expected) in
            [("node-7.rack", "node-7.rack"), ("mein büro 1", "mein-b-ro-1"), ("", "unknown")]
        {
            assert_eq!(printable(host), expected);
        }
        assert_eq!(check_name(&printable(&"\u{1F600}\n".repeat(200))), Ok(()));
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(check_name("worker-0"), Ok(()));
        for bad in ["", "a b", "a\0b", "ä", &"x".repeat(129)] {
            assert!(matches!(check_name(bad), Err(ConnectorError::BadName { .. })), "{bad:?}");
        }
    }
}
