//! The environment of the figures. Nothing in it names a user or a folder of the machine.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use nixl_connector::nixl::NixlLibrary;
use nixl_device::{MachineIdentity, Topology, cuda};
use serde::{Deserialize, Serialize};

/// Facts that change the figures; `none` and `unknown` are values.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Environment {
    /// UTC, by RFC 3339.
    date: String,
    commit: String,
    kernel: String,
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    nixl_library: String,
    nixl_version: String,
    /// What the variable says; `default` if it is not set.
    pub ucx_tls: String,
    gpus: String,
    nics: String,
}

impl Environment {
    /// What is found now.
    #[must_use]
    pub fn discover() -> Self {
        let unknown = || "unknown".to_owned();
        let library = NixlLibrary::open().ok().map(|library| library.path());
        let name = library.and_then(Path::file_name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            date: rfc3339(now),
            commit: commit().unwrap_or_else(unknown),
            kernel: MachineIdentity::discover().kernel().map_or_else(unknown, str::to_owned),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            memory_bytes: memory(),
            nixl_library: name
                .map_or_else(|| "none".to_owned(), |n| n.to_string_lossy().into_owned()),
            nixl_version: library.and_then(wheel_version).unwrap_or_else(unknown),
            ucx_tls: env::var("UCX_TLS").unwrap_or_else(|_| "default".to_owned()),
            gpus: gpus(),
            nics: count(Topology::discover().nics().len()),
        }
    }

    /// For a list.
    #[must_use]
    pub fn facts(&self) -> [(&'static str, String); 11] {
        [
            ("date", self.date.clone()),
            ("commit", self.commit.clone()),
            ("kernel", self.kernel.clone()),
            ("CPU", self.cpu.clone()),
            ("cores", self.cores.to_string()),
            ("memory", format!("{:.1} GB", self.memory_bytes as f64 / 1e9)),
            ("NIXL library", self.nixl_library.clone()),
            ("NIXL version", self.nixl_version.clone()),
            ("UCX_TLS", self.ucx_tls.clone()),
            ("GPUs", self.gpus.clone()),
            ("RDMA NICs", self.nics.clone()),
        ]
    }
}

fn count(number: usize) -> String {
    if number == 0 { "none".to_owned() } else { number.to_string() }
}

/// Their number, the model of the first, and the newest CUDA that the driver knows.
fn gpus() -> String {
    let Ok(driver) = cuda::probe() else { return count(0) };
    let devices = cuda::devices().unwrap_or_default();
    let model = devices.first().map_or("GPU", |device| device.name());
    let (major, minor) = (driver.driver_version() / 1000, driver.driver_version() % 1000 / 10);
    format!("{} x {model}, driver for CUDA {major}.{minor}", driver.device_count())
}

/// The first value of a field in one of the kernel's lists.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.into_iter().find(|(key, _)| key.trim() == name).map(|(_, v)| v.trim().to_owned())
}

fn memory() -> u64 {
    let kib = field("/proc/meminfo", "MemTotal");
    kib.and_then(|v| v.strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// The version of the wheel that the library lies in: two folders up there is `nixl_*-VERSION.dist-info`.
fn wheel_version(library: &Path) -> Option<String> {
    let wheels = library.parent()?.parent()?;
    let names = fs::read_dir(wheels).ok()?.flatten();
    names.into_iter().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (package, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
        package.starts_with("nixl").then(|| version.to_owned())
    })
}

/// The commit of the working folder, if it is a checkout.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Seconds since 1970 as a date and time.
fn rfc3339(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", days + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn nothing_is_a_value() {
        assert_eq!((count(0), count(2)), ("none".to_owned(), "2".to_owned()));
        assert_eq!(wheel_version(Path::new("libnixl_capi.so")), None);
    }
}
