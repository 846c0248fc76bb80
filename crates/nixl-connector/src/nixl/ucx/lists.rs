//! Values with commas, which NIXL cannot hand to UCX.
//!
//! UCX takes them from its files of settings, and reads those values for each context. So a value is put there while an agent is
//! made, and what was there before is put back.

use super::library::Ucx;
use super::settings::Process;

/// UCX reads lines of its files into 200 bytes, with the end of the line.
const LONGEST_LINE: usize = 197;

/// Values that are in force for contexts that are made now. Put back when dropped.
pub(super) struct Lists<'a> {
    ucx: &'a Ucx,
    process: &'a Process,
    /// Names, and what is to be put back.
    before: Vec<(String, String)>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(ucx: &'a Ucx, process: &'a Process) -> Self {
        Self { ucx, process, before: Vec::new() }
    }

    /// Why a value cannot be in a line of a file, if so.
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
            .map_err(|e| format!("it cannot be handed to UCX: {e}"))?;
        let after = self.ucx.value(name);
        self.before.push((name.to_owned(), before));
        // UCX writes ranges out, so the value need not be the same.
        match after {
            Some(after) if after == value || value.contains('[') => Ok(()),
            _ => Err("it cannot be handed to UCX without /proc".to_owned()),
        }
    }
}

impl Drop for Lists<'_> {
    fn drop(&mut self) {
        for (name, before) in &self.before {
            if let Err(error) = self.ucx.set_for_new_contexts(self.process, name, before) {
                tracing::warn!(name, %error, "a setting of UCX's stays as a connector has set it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_line_cannot_hold_are_refused() {
        assert_eq!(Lists::obstacle("TLS", "tcp,self"), None);
        assert_eq!(Lists::obstacle("NET_DEVICES", "mlx5_[0-7]:1,eth0"), None);
        for bad in ["a, b", "a,b;c", "a,b\n", &"a,".repeat(100)] {
            assert!(Lists::obstacle("TLS", bad).is_some(), "{bad:?}");
        }
    }
}
