//! The jobs of the child processes.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use nixl_device::{
    FileIdentity, Holders, ProcessIdentity, ProcessWatch, proc_is_of_this_namespace,
};

use crate::support::{LIMIT, TASK, say};

/// No test, but what a child runs.
#[test]
#[ignore = "run by the other tests, in processes of their own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (kind, rest) = task.split_once(' ').unwrap_or((&task, ""));
    let words: Vec<_> = rest.split(' ').collect();
    match kind {
        "connect" => connect(words[0], words[1].parse().unwrap()),
        "holders" => holders(words[0].parse().unwrap(), words[1].parse().unwrap()),
        "namespace" => namespace(),
        _ => panic!("{task}"),
    }
}

fn next_word() -> String {
    let mut line = String::new();
    // The parent closes its end at the latest when it ends.
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        std::process::exit(0);
    }
    line.trim().to_owned()
}

/// Sends bytes, then does with the connection what it is told.
fn connect(address: &str, bytes: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&vec![7; bytes]).unwrap();
    say(stream.local_addr().unwrap());
    loop {
        match next_word().as_str() {
            "finish" => stream.shutdown(Shutdown::Write).unwrap(),
            "reset" => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                std::process::exit(0);
            }
            word => panic!("{word}"),
        }
        say("done");
    }
}

fn holders(device: u64, inode: u64) {
    let holders = Holders::of_file(FileIdentity::new(device, inode), LIMIT);
    let (pids, hidden) = (holders.pids(), holders.hidden());
    say(format!("{pids:?} {} {hidden} {}", holders.unreadable() > 0, holders.proves_none()));
    next_word();
}

fn namespace() {
    let watch = ProcessWatch::open(std::process::id()).unwrap();
    let ours = proc_is_of_this_namespace();
    let known = (watch.start_time().is_some(), ProcessIdentity::current().is_some());
    say(format!("{ours} {known:?}"));
    next_word();
}
