//! Children, and waiting for what comes.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const TASK: &str = "NIXL_TEST_PROCESSES_CHILD";
/// What a child says follows it: the test harness writes to the same output.
const MARK: &str = "@@";

/// More than any search through the processes of a machine takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A process that does what it is told, until it is killed or dropped.
pub(crate) struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Other {
    /// Runs `children::child` in a process of its own.
    pub(crate) fn with_task(task: &str) -> Self {
        Self::with_task_by(Command::new("/proc/self/exe"), task)
    }

    /// As another user, for whom the folders of the program may be closed.
    pub(crate) fn as_other_user(task: &str) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/proc/self/exe");
        command.uid(NOBODY_UID).gid(NOBODY_UID).current_dir("/");
        Self::with_task_by(command, task)
    }

    /// By a program that runs what follows its arguments.
    pub(crate) fn with_task_by(mut command: Command, task: &str) -> Self {
        command.args(["--exact", "children::child", "--ignored", "--nocapture"]);
        command.env(TASK, task);
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.input, "{word}").unwrap();
    }

    /// The next thing that it says.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the child has ended");
            if let Some((_, word)) = line.split_once(MARK) {
                return word.trim().to_owned();
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.end();
    }
}

/// The user and group `nobody` of Unix.
const NOBODY_UID: u32 = 65_534;

/// What a child tells its parent.
pub(crate) fn say(word: impl std::fmt::Display) {
    println!("{MARK}{word}");
    std::io::stdout().flush().unwrap();
}

/// Waits until something holds.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < LIMIT, "{what}");
        std::thread::yield_now();
    }
}

/// Whether this process may become other users and have namespaces of its own, or a note that the test is skipped.
pub(crate) fn is_root(test: &str) -> bool {
    let unshare = Command::new("unshare").args(["-fpm", "true"]).output();
    let may = rustix::process::geteuid().is_root() && unshare.is_ok_and(|out| out.status.success());
    if !may {
        let line = format!("SKIPPED(root): {test}\n");
        // Past the test harness, which would keep it for failures.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
            let mut log = OpenOptions::new().create(true).append(true).open(log).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
    }
    may
}
