//! Build time of a connector, beside a NIXL agent with the same options.
//!
//! ```text
//! cargo run --release --example start -- --rounds 9
//! ```
//!
//! Each start is in a process of its own, the kinds in turns, since libraries are loaded once in a process. The lines are medians:
//!
//! | line | what is timed |
//! |---|---|
//! | library | opening NIXL's library, which both kinds do first |
//! | agent | the library, a NIXL agent, and its UCX backend |
//! | connector | `Connector::builder().build()` |
//! | second connector | the same again in that process |
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use nixl_connector::Connector;
use nixl_connector::nixl::NixlLibrary;
use nixl_sys::{Agent, AgentConfig, ThreadSync};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// How long a connector takes to build
#[derive(Parser)]
struct Args {
    /// How often each kind is started
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One start; the first process runs it
    #[arg(long, hide = true)]
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    Agent,
    Connector,
}

fn main() -> Result {
    let args = Args::parse();
    match args.kind {
        Some(Kind::Agent) => agent(),
        Some(Kind::Connector) => connector(),
        None => compare(args.rounds),
    }
}

fn agent() -> Result {
    let begun = Instant::now();
    NixlLibrary::open()?;
    println!("{}", begun.elapsed().as_nanos());
    let config = AgentConfig {
        enable_prog_thread: true,
        pthr_delay_us: 100_000,
        thread_sync: ThreadSync::Strict,
        ..AgentConfig::default()
    };
    let agent = Agent::new_configured("start", &config)?;
    let (_, mut params) = agent.get_plugin_params("UCX")?;
    params.set("engine_config", "TCP_CONN_NB=y")?;
    let _backend = agent.create_backend("UCX", &params)?;
    println!("{}", begun.elapsed().as_nanos());
    Ok(())
}

fn connector() -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for _ in 0..2 {
            let begun = Instant::now();
            let connector = Connector::builder().build().await?;
            println!("{}", begun.elapsed().as_nanos());
            drop(connector);
        }
        Ok(())
    })
}

fn compare(rounds: usize) -> Result {
    let names = ["library", "agent", "connector", "second connector"];
    let mut times = names.map(|_| Vec::new());
    for _ in 0..rounds {
        let lines = [run(Kind::Agent)?, run(Kind::Connector)?].concat();
        for (times, time) in times.iter_mut().zip(lines) {
            times.push(time);
        }
    }
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        println!("{name:>16}: {:6.1} ms", median.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn run(kind: Kind) -> Result<Vec<Duration>> {
    let kind = format!("{kind:?}").to_lowercase();
    let output = Command::new(std::env::current_exe()?).args(["--kind", &kind]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8(output.stdout)?;
    // UCX may print warnings there.
    let numbers = text.lines().filter_map(|line| line.parse().ok());
    Ok(numbers.map(Duration::from_nanos).collect())
}
