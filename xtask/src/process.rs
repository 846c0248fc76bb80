//! Child processes whose failures say what failed.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, anyhow, bail};

/// How the command would be typed.
pub(crate) fn display(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    command.get_args().map(|arg| arg.to_string_lossy()).fold(name, |mut line, arg| {
        line.push(' ');
        if arg.contains(char::is_whitespace) {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(&arg);
        }
        line
    })
}

/// Runs the command with our standard streams; a failure names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.status().with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Runs the command as [`run`] does; a failure also says what to do.
pub(crate) fn run_or_advise(command: &mut Command, advice: &str) -> Result<()> {
    run(command).map_err(|error| anyhow!("{error:#}\n  -> {advice}"))
}

/// What the command prints; `None` where it is missing or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    match command.output() {
        Ok(Output { status, stdout, .. }) if status.success() => {
            Some(String::from_utf8_lossy(&stdout).trim().to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_command() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
        let error = run(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `tool`");
        let error = run_or_advise(Command::new("/bin/sh").args(["-c", "exit 3"]), "try again");
        assert!(error.unwrap_err().to_string().ends_with("\n  -> try again"));
    }

    #[test]
    fn output_of_a_missing_or_failing_command_is_none() {
        assert_eq!(output(Command::new("/bin/echo").arg("x")).as_deref(), Some("x"));
        assert_eq!(output(&mut Command::new("/nonexistent/tool")), None);
        assert_eq!(output(Command::new("/bin/sh").args(["-c", "exit 1"])), None);
    }
}
