//! Interned names of engines for reports, one for each set of backends.

use std::collections::BTreeSet;
use std::sync::Mutex;

use nixl_device::PerProcess;
use nixl_device::locks::lock;

/// The same name for as long as the process lives. There are few: NIXL's backends, in the orders in which they were chosen.
pub(super) fn interned(name: String) -> &'static str {
    static NAMES: PerProcess<Mutex<BTreeSet<&'static str>>> = PerProcess::new(Mutex::default);
    // Each change is one insertion.
    let mut names = lock(NAMES.get());
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = name.leak();
    names.insert(name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        let [first, second] = ["nixl/test", "nixl/test"].map(|name| interned(name.to_owned()));
        assert!(std::ptr::eq(first, second));
        assert_ne!(interned("nixl/other".to_owned()), first);
    }
}
