//! Packages of the published crates, made without a warning of cargo.

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::style::CRATES;
use crate::workspace::Workspace;

/// The name of the step.
pub(crate) const STEP: &str = "packages";

/// Makes the packages, without compiling them.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut package = workspace.cargo();
    package.args(["package", "--no-verify", "--offline", "--allow-dirty"]);
    package.args(CRATES.iter().flat_map(|name| ["-p", name]));
    let output = package
        .output()
        .with_context(|| format!("cannot start `{}`", process::display(&package)))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || warns(&messages) {
        bail!("{messages}\n  -> mend the manifest that cargo names");
    }
    Ok(())
}

fn warns(messages: &str) -> bool {
    messages.lines().any(|line| line.starts_with("warning: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_of_cargo_is_found() {
        assert!(warns("   Packaging a\nwarning: manifest has no license\n    Packaged 3 files\n"));
        assert!(!warns("   Packaging warning: v0.1.0\n    Packaged 3 files\n"));
    }
}
