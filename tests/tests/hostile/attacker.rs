//! A process of its own that sends what it should not.

use std::env;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::ControlThread;
use nixl_connector::nixl::NixlTransport;
use nixl_metadata::{AgentMetadata, RdmaMetadata, Ticket};
use nixl_ops::{PeerId, Transport};
use nixl_tests::forge::Blob;
use nixl_tests::{Random, bytes_of, metadata, native_line};
use rustix::process::{Pid, Signal, kill_process};

use crate::forge::{Forge, bomb};
use crate::pace::Pace;
use crate::scene::Outcome;
use crate::target::Target;
use crate::{LEN, LIMIT};

/// Offers, one a line; a ticket may follow after a space.
const HELD: &str = "NIXL_TEST_HOSTILE_HELD";
const ATTACK: &str = "NIXL_TEST_HOSTILE_ATTACK";

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attack {
    /// Messages of every kind that present no offer.
    Stranger,
    /// Claims that present one.
    Claims,
    /// Messages of staged transfers of one.
    Staging,
    /// Messages of transfers by this side's GPU of one.
    RemoteCopy,
    /// Readers' messages about grants.
    GrantDone,
    /// Notifications of importers.
    Importers,
    /// Requests for the owner's part in reads by ticket.
    TicketRequests,
    /// Well-formed requests for each offer, by several agents, which are not there to be answered.
    Silent,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [
            Self::Stranger,
            Self::Claims,
            Self::Staging,
            Self::RemoteCopy,
            Self::GrantDone,
            Self::Importers,
            Self::TicketRequests,
            Self::Silent,
        ];
        all.into_iter().find(|attack| attack.to_string() == text).ok_or_else(|| text.to_owned())
    }
}

/// Sends what the environment says. It grants the target memory of its own that is not there.
#[test]
#[ignore = "a part of the other tests"]
fn attacks() {
    let (Ok(held), Ok(attack)) = (env::var(HELD), env::var(ATTACK)) else { return };
    let [attack, seed, count] = attack.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{attack}")
    };
    let (seed, count): (u64, u64) = (seed.parse().unwrap(), count.parse().unwrap());
    let held = fs::read_to_string(held).unwrap();
    match attack.parse().unwrap() {
        Attack::Silent => stay_silent(&held, count),
        attack => send(attack, &held, seed, count),
    }
    std::process::exit(0);
}

/// An agent that knows the target.
struct Agent {
    transport: NixlTransport,
    target: PeerId,
    own: AgentMetadata,
}

impl Agent {
    fn new(name: &str, offer: &RdmaMetadata) -> Self {
        let control = ControlThread::spawn().unwrap();
        let transport = NixlTransport::open(name, control).unwrap();
        let target = offer.agent_metadata().inflate(&Default::default()).unwrap();
        let target = transport.connect(&target).unwrap().into_peer();
        let own = AgentMetadata::compress(&transport.local_metadata().unwrap()).unwrap();
        Self { transport, target, own }
    }

    fn blob(&self, offer: &RdmaMetadata) -> Blob {
        let (kind, memory) = (offer.operation_kind(), offer.descriptors().to_vec());
        let key = offer.notification_key().clone();
        Blob::of(&RdmaMetadata::new(kind, memory, self.own.clone(), key).unwrap())
    }

    fn send(&self, message: &[u8]) -> Result<(), String> {
        let began = Instant::now();
        loop {
            match self.transport.notify(&self.target, message) {
                Poll::Ready(Ok(())) => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error.to_string()),
                Poll::Pending => {
                    assert!(began.elapsed() < Duration::from_secs(60), "nothing can be sent");
                    thread::yield_now();
                }
            }
        }
    }
}

fn send(attack: Attack, held: &str, seed: u64, count: u64) {
    let (offer, ticket) = held.trim().split_once(' ').unwrap();
    let offer = metadata(offer).unwrap();
    let agent = Agent::new(&format!("attacker-{}-{seed}", std::process::id()), &offer);
    let mut forge = Forge {
        random: Random::new(seed),
        key: offer.notification_key().as_bytes(),
        token: offer.terms().map_or(0, |terms| terms.token().get()),
        introduction: agent.own.compressed(),
        blob: &agent.blob(&offer),
        bomb: &bomb(),
        ticket: match attack {
            Attack::Stranger => None,
            _ => Ticket::decode(&bytes_of(ticket).unwrap()).ok(),
        },
    };
    let (mut sent, mut pace) = (0, Pace::new());
    while sent < count {
        pace.wait();
        let message = match attack {
            Attack::Claims => forge.claim(true),
            Attack::Staging => forge.staged(true),
            Attack::RemoteCopy => forge.remote_copy(true),
            Attack::GrantDone => forge.grant_done(),
            Attack::Importers => forge.notification(),
            Attack::TicketRequests => forge.ticket_request(),
            Attack::Stranger | Attack::Silent => forge.message(),
        };
        // The key alone would complete the offer.
        if message == forge.key {
            continue;
        }
        if let Err(error) = agent.send(&message) {
            println!("sent {sent}");
            panic!("the target is gone: {error}");
        }
        sent += 1;
        if sent % 64 == 0 {
            agent.transport.take_notifications(&mut |_, _| {}).unwrap();
        }
    }
    println!("sent {sent}");
}

/// Asks for each offer by `count` agents, and waits to be stopped.
fn stay_silent(held: &str, count: u64) {
    let offers: Vec<_> = held.lines().map(|line| metadata(line).unwrap()).collect();
    let mut sent = 0;
    let name = |number| format!("silent-{}-{number}", std::process::id());
    let agents: Vec<_> = (0..count).map(|n| Agent::new(&name(n), &offers[0])).collect();
    for agent in &agents {
        for offer in &offers {
            let mut forge = Forge {
                random: Random::new(sent),
                key: offer.notification_key().as_bytes(),
                token: offer.terms().map_or(0, |terms| terms.token().get()),
                introduction: agent.own.compressed(),
                blob: &agent.blob(offer),
                bomb: &[],
                ticket: None,
            };
            agent.send(&forge.request()).unwrap();
            sent += 1;
        }
    }
    println!("\nsent {sent}");
    thread::sleep(LIMIT);
}

/// An attacker that was stopped. Killed when dropped.
pub(crate) struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(held: &str, attack: Attack, seed: u64, count: usize) -> (Child, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), held).unwrap();
    let child = Command::new(env::current_exe().unwrap())
        .args(["attacker::attacks", "--exact", "--nocapture", "--ignored", "--test-threads=1"])
        .env(HELD, file.path())
        .env(ATTACK, format!("{attack} {seed} {count}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, file)
}

impl Target {
    /// Children send `count` messages. One that presents an offer may end itself by it; another goes on.
    pub(crate) fn send(&self, attack: Attack, seed: u64, count: usize) -> Outcome {
        /// Of one child: then comes another offer, since the messages may end it, as its holder may.
        const AT_ONCE: usize = 10_000;
        const ATTACKERS: u64 = 60;
        let dropped = self.dropped();
        let (mut sent, mut attackers) = (0, 0);
        while sent < count && attackers < ATTACKERS {
            attackers += 1;
            let seed = seed * 1000 + attackers;
            sent += self.send_by_one(attack, seed, AT_ONCE.min(count - sent));
            self.ask("stats").unwrap();
        }
        assert_eq!(sent, count, "{attack}: attackers end too often");
        thread::sleep(Self::ARRIVES);
        // The last messages of honest ones about their grants are among these, too.
        let refused = sent.min((self.dropped() - dropped) as usize);
        Outcome { sent, refused: Some(refused), accepted: Some(sent - refused) }
    }

    /// What was sent is there after so long.
    const ARRIVES: Duration = Duration::from_millis(200);

    fn send_by_one(&self, attack: Attack, seed: u64, count: usize) -> usize {
        let (id, offer) = self.offer(&format!("readable {LEN} 0")).unwrap();
        let held = format!("{} {}", native_line(&offer), self.ticket);
        let (mut child, _file) = start(&held, attack, seed, count);
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < LIMIT, "the attacker hangs");
            thread::sleep(Duration::from_millis(5));
        };
        self.ask(&format!("drop {id}")).unwrap();
        let output = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
        let sent = output.lines().find_map(|line| line.split("sent ").nth(1)?.parse().ok());
        let is_holder = matches!(
            attack,
            Attack::Claims | Attack::Staging | Attack::RemoteCopy | Attack::TicketRequests
        );
        assert!(is_holder || status.success(), "{status} {output}");
        sent.unwrap_or(0)
    }

    /// Agents ask for these offers, and their process is stopped before it can answer.
    pub(crate) fn introduce_and_stop(&self, offers: &[RdmaMetadata]) -> Stopped {
        const AGENTS: usize = 8;
        let held: Vec<_> = offers.iter().map(native_line).collect();
        let (mut child, _file) = start(&held.join("\n"), Attack::Silent, 0, AGENTS);
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let sent = output.find_map(|line| line.unwrap().strip_prefix("sent ").map(str::to_owned));
        assert_eq!(sent, Some((AGENTS * offers.len()).to_string()));
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Stopped(child)
    }
}
