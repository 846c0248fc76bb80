//! Values with commas, which NIXL cannot pass to UCX.
//!
//! UCX takes them from its configuration files, and reads those values for each context. So a value is stored there while an
//! agent is made, and the previous value restored.

use super::library::Ucx;
use super::settings::Process;

/// UCX reads lines of its files into 200 bytes, with the end of the line.
const LONGEST_LINE: usize = 197;

/// Values in force for contexts made now. The previous ones are restored on drop.
pub(super) struct Lists<'a> {
    ucx: &'a Ucx,
    process: &'a Process,
    /// Names, with the values to restore.
    before: Vec<(String, String)>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(ucx: &'a Ucx, process: &'a Process) -> Self {
        Self { ucx, process, before: Vec::new() }
    }

    /// The reason why a value cannot be a line of a file, if any.
    pub(super) fn obstacle(name: &str, value: &str) -> Option<&'static str> {
        if format!("UCX_{name}={value}").len() > LONGEST_LINE {
            return Some("a list may not be so long; UCX takes ranges, such as mlx5_[0-7]");
        }
        let breaks = |c: char| c.is_whitespace() || c.is_control() || c == ';';
        value.contains(breaks).then_some("a list may have no blanks and no semicolons")
    }

    /// Puts a value in force.
    pub(super) fn put(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(obstacle) = Self::obstacle(name, value) {
            return Err(obstacle.to_owned());
        }
        let before = self.ucx.value(name).ok_or(
            "UCX takes a list for this setting from the environment alone: set the variable before the program starts",
        )?;
        self.ucx
            .set_for_new_contexts(self.process, name, value)
            .map_err(|e| format!("it cannot be passed to UCX: {e}"))?;
        let after = self.ucx.value(name);
        self.before.push((name.to_owned(), before));
        // UCX expands ranges, so the value may differ.
        match after {
            Some(after) if after == value || value.contains('[') => Ok(()),
            _ => Err("it cannot be passed to UCX without /proc: mount it, or set the variable in the environment".to_owned()),
        }
    }
}

impl Drop for Lists<'_> {
    fn drop(&mut self) {
        for (name, before) in &self.before {
            if let Err(error) = self.ucx.set_for_new_contexts(self.process, name, before) {
                tracing::warn!(name, %error, "a setting of UCX keeps a connector's value");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::LONGEST_LIST;
    use super::*;

    #[test]
    fn values_that_a_line_cannot_hold_are_refused() {
        assert_eq!(Lists::obstacle("TLS", "tcp,self"), None);
        assert_eq!(Lists::obstacle("NET_DEVICES", "mlx5_[0-7]:1,eth0"), None);
        assert_eq!(Lists::obstacle("NET_DEVICES", &"e".repeat(LONGEST_LIST)), None);
        for bad in ["a, b", "a,b;c", "a,b\n", &"a,".repeat(100)] {
            assert!(Lists::obstacle("TLS", bad).is_some(), "{bad:?}");
        }
    }
}
