//! The system's settings for huge pages of shared memory.

use crate::region::RegionError;

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";
/// The setting for all sizes, and that of each.
const NAME: &str = "shmem_enabled";

/// # Errors
///
/// [`RegionError::NoHugePages`] if the system gives none to memory that requests them.
pub(crate) fn check() -> Result<(), RegionError> {
    check_by(|setting| std::fs::read_to_string(format!("{SETTINGS}/{setting}")).ok())
}

fn check_by(read: impl Fn(&str) -> Option<String>) -> Result<(), RegionError> {
    // Linux since 6.11 has a setting for each size.
    let bytes = read("hpage_pmd_size").and_then(|bytes| bytes.trim().parse::<u64>().ok());
    let of_size = bytes.map(|bytes| format!("hugepages-{}kB/{NAME}", bytes >> 10));
    let value = |setting: &str| read(setting).as_deref().and_then(chosen).map(str::to_owned);
    let chosen = of_size.and_then(|setting| value(&setting).map(|value| (setting, value)));
    let (setting, value) = match chosen {
        Some((setting, value)) if value != "inherit" => (setting, value),
        // A system without the setting has no huge pages.
        _ => (NAME.to_owned(), value(NAME).unwrap_or_else(|| "never".to_owned())),
    };
    match value.as_str() {
        "never" | "deny" => {
            Err(RegionError::NoHugePages { setting: format!("{SETTINGS}/{setting}") })
        }
        _ => Ok(()),
    }
}

/// The value in brackets of a setting that lists all.
fn chosen(values: &str) -> Option<&str> {
    let (_, rest) = values.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_them_is_named() {
        const SIZE: (&str, &str) = ("hpage_pmd_size", "2097152\n");
        const OF_SIZE: &str = "hugepages-2048kB/shmem_enabled";
        let check = |settings: &[(&str, &str)]| {
            let find = |setting: &str| settings.iter().find(|(name, _)| *name == setting);
            check_by(|setting| find(setting).map(|(_, value)| (*value).to_owned()))
        };
        let refused = |setting: &str, settings: &[(&str, &str)]| {
            let setting = format!("{SETTINGS}/{setting}");
            assert_eq!(check(settings), Err(RegionError::NoHugePages { setting }));
        };
        let never = (NAME, "always within_size advise [never] deny force\n");
        let advise = (NAME, "always within_size [advise] never deny force\n");
        refused(NAME, &[]);
        refused(NAME, &[never]);
        check(&[advise]).unwrap();
        let inherit = (OF_SIZE, "always [inherit] within_size advise never\n");
        refused(OF_SIZE, &[SIZE, advise, (OF_SIZE, "always inherit within_size advise [never]\n")]);
        check(&[SIZE, advise, inherit]).unwrap();
        refused(NAME, &[SIZE, (NAME, "always advise never [deny] force\n"), inherit]);
        check(&[SIZE, never, (OF_SIZE, "always inherit [advise] never\n")]).unwrap();
    }
}
