//! Options of NIXL and UCX.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A backend of NIXL's: the engine below it that moves bytes between agents.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum NixlBackend {
    /// UCX: TCP, shared memory, InfiniBand and RoCE, CUDA.
    Ucx,
    /// Libfabric, which AWS recommends for EFA. Both peers need it. Its keys and addresses are opaque here: a peer's go to
    /// libfabric unchecked.
    Libfabric,
}

impl NixlBackend {
    /// Its name for NIXL.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ucx => "UCX",
            Self::Libfabric => "LIBFABRIC",
        }
    }
}

/// The least severe messages that UCX writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum UcxLogLevel {
    /// Fatal errors, which end the process.
    Fatal,
    /// Errors.
    Error,
    /// UCX's default.
    Warn,
    /// Information about optional parts.
    Diag,
    /// UCX's actions.
    Info,
    /// More detail, the most of UCX's release builds.
    Debug,
}

/// Settings of NIXL and UCX for a connector: [`ConnectorBuilder::nixl`](crate::ConnectorBuilder::nixl).
///
/// ```
/// use nixl_connector::nixl::NixlOptions;
///
/// let options = NixlOptions::new()
///     .network_devices(["mlx5_0:1", "mlx5_1:1"])
///     .rails(2)
///     .ucx("IB_GID_INDEX", "3");
/// ```
///
/// UCX's settings are those that its documentation writes `UCX_...`. The environment takes precedence over each option, as for
/// all programs that use UCX: an operator can override the program.
/// [`Connector::engine_settings`](crate::Connector::engine_settings) shows each setting in force and its origin.
///
/// Some settings of UCX apply to the whole process ([`modules`](Self::modules), [`log_level`](Self::log_level), `MEMTYPE_CACHE`
/// and others that it calls global). The first connector sets them; a later one with another value is refused with
/// [`NixlUnavailable::SettingInForce`](super::NixlUnavailable::SettingInForce). Settings that UCX reads once, when its library
/// is loaded (`LOG_FILE`, `ERROR_SIGNALS`, `VFS_ENABLE`, ...), work in the environment alone, and are refused here. So is a
/// value that UCX rejects.
///
/// A value with a comma goes into a table of UCX's that has no lock, while the connector is built. A program that also makes
/// contexts of NIXL's own UCX library, without a connector, must not do so at that time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NixlOptions {
    backends: Vec<NixlBackend>,
    parameters: BTreeMap<(NixlBackend, String), String>,
    ucx: BTreeMap<String, String>,
    progress_delay: Option<Duration>,
    prefix: Option<PathBuf>,
    networks: Option<Vec<(IpAddr, u8)>>,
}

impl NixlOptions {
    /// The default interval of NIXL's progress thread. It sleeps on UCX's events meanwhile, so this adds no latency.
    pub const DEFAULT_PROGRESS_DELAY: Duration = Duration::from_millis(100);

    /// NIXL counts the microseconds in an `int`.
    const MAX_PROGRESS_DELAY: Duration = Duration::from_secs(600);

    /// UCX with its default settings.
    #[must_use]
    pub fn new() -> Self {
        Self {
            backends: vec![NixlBackend::Ucx],
            parameters: BTreeMap::new(),
            ucx: BTreeMap::new(),
            progress_delay: Some(Self::DEFAULT_PROGRESS_DELAY),
            prefix: None,
            networks: None,
        }
    }

    /// The folder of NIXL: the prefix of an installation, or an unpacked wheel. By default [several
    /// places](super::NixlLibrary::open) are searched; with a folder, only `NIXL_PREFIX` and then that folder.
    ///
    /// A process has one NIXL: a later connector with another folder is refused with
    /// [`NixlUnavailable::OtherInForce`](super::NixlUnavailable::OtherInForce).
    #[must_use]
    pub fn prefix(mut self, folder: impl Into<PathBuf>) -> Self {
        self.prefix = Some(folder.into());
        self
    }

    /// The backends of the agent; by default UCX alone. Memory is registered with all of them, and peers need one in common. An
    /// empty list is refused when the connector is built.
    #[must_use]
    pub fn backends(mut self, backends: impl IntoIterator<Item = NixlBackend>) -> Self {
        self.backends.clear();
        for backend in backends {
            if !self.backends.contains(&backend) {
                self.backends.push(backend);
            }
        }
        self
    }

    /// A parameter of a backend, by its name in NIXL's documentation, such as `num_workers` or `num_threads` of UCX, at most 64
    /// each. The settings of UCX in `engine_config` are as those of [`ucx`](Self::ucx).
    #[must_use]
    pub fn parameter(
        mut self,
        backend: NixlBackend,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.parameters.insert((backend, name.into()), value.into());
        self
    }

    /// The network devices that UCX uses (`UCX_NET_DEVICES`): NICs such as `mlx5_0:1`, interfaces such as `eth0`. At most 64.
    /// By default all, or, on a machine with more interfaces than UCX takes, some with a route out.
    #[must_use]
    pub fn network_devices<D: AsRef<str>>(self, devices: impl IntoIterator<Item = D>) -> Self {
        self.ucx_list("NET_DEVICES", devices)
    }

    /// The transports that UCX uses (`UCX_TLS`), such as `tcp` or `rc`; at most 64. By default all.
    #[must_use]
    pub fn transports<T: AsRef<str>>(self, transports: impl IntoIterator<Item = T>) -> Self {
        self.ucx_list("TLS", transports)
    }

    /// The networks from which UCX takes TCP connections: addresses of which so many leading bits count. By default all, and a process
    /// that connects can end this one and write to its memory. The kernel drops the connections of others, from a moment after UCX
    /// has opened its ports.
    ///
    /// Peers of this host connect over TCP from its own addresses, `127.0.0.1` included. So do all its users.
    ///
    /// ```
    /// # use nixl_connector::nixl::NixlOptions;
    /// use std::net::Ipv4Addr;
    ///
    /// let networks = [(Ipv4Addr::LOCALHOST, 8), (Ipv4Addr::new(10, 1, 0, 0), 16)];
    /// let options = NixlOptions::new().admit_networks(networks);
    /// ```
    #[must_use]
    pub fn admit_networks<A: Into<IpAddr>>(
        mut self,
        networks: impl IntoIterator<Item = (A, u8)>,
    ) -> Self {
        let networks = networks.into_iter().map(|(address, bits)| (address.into(), bits));
        self.networks = Some(networks.collect());
        self
    }

    /// The largest number of NICs for one transfer (`UCX_MAX_RMA_RAILS`). By default two, NIXL's choice.
    #[must_use]
    pub fn rails(self, most: u32) -> Self {
        self.ucx("MAX_RMA_RAILS", most.to_string())
    }

    /// The modules that UCX loads (`UCX_MODULES`), or, after a `^` in the first, those to exclude; patterns are allowed. For
    /// the whole process. By default all, except `efa` without an EFA device: it loads the system's netlink libraries next to
    /// those of NIXL's wheel, whose destructors then end the process by SIGSEGV at exit.
    #[must_use]
    pub fn modules<M: AsRef<str>>(self, modules: impl IntoIterator<Item = M>) -> Self {
        self.ucx_list("MODULES", modules)
    }

    /// The least severe messages of UCX (`UCX_LOG_LEVEL`). For the whole process. They go to `tracing` with the target `ucx` if
    /// a subscriber is installed and `UCX_LOG_FILE` is not set, else to standard output.
    #[must_use]
    pub fn log_level(self, level: UcxLogLevel) -> Self {
        let level = match level {
            UcxLogLevel::Fatal => "fatal",
            UcxLogLevel::Error => "error",
            UcxLogLevel::Warn => "warn",
            UcxLogLevel::Diag => "diag",
            UcxLogLevel::Info => "info",
            UcxLogLevel::Debug => "debug",
        };
        self.ucx("LOG_LEVEL", level)
    }

    /// Any setting of UCX, by its name with or without `UCX_`. The items of a list are separated by commas.
    ///
    /// Some defaults differ from UCX's. `TCP_CONN_NB` is `y`. `RCACHE_ENABLE` is `n` without an RDMA device and CUDA: UCX's
    /// registration cache would have no use, and a child of a fork that unmaps memory might hang. `MEMTYPE_CACHE` is `n` if
    /// there may be a GPU.
    #[must_use]
    pub fn ucx(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        let name = name.as_ref();
        let name = name.strip_prefix("UCX_").unwrap_or(name);
        self.ucx.insert(name.to_owned(), value.into());
        self
    }

    /// The longest sleep of NIXL's progress thread between two polls of UCX; by default [100 ms](Self::DEFAULT_PROGRESS_DELAY).
    /// UCX's events wake it at once, and this bounds the time that a wake-up which UCX loses costs: more than ten minutes count
    /// as so many. Zero makes it spin.
    #[must_use]
    pub fn progress_delay(mut self, delay: Duration) -> Self {
        self.progress_delay = Some(delay.min(Self::MAX_PROGRESS_DELAY));
        self
    }

    /// Disables NIXL's progress thread. Peers then advance over TCP only while this connector has operations in flight, or once
    /// a second. For programs with a bound on threads.
    #[must_use]
    pub fn no_progress_thread(mut self) -> Self {
        self.progress_delay = None;
        self
    }

    fn ucx_list<T: AsRef<str>>(self, name: &str, items: impl IntoIterator<Item = T>) -> Self {
        let items: Vec<T> = items.into_iter().collect();
        let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
        self.ucx(name, items.join(","))
    }

    pub(super) fn chosen_prefix(&self) -> Option<&Path> {
        self.prefix.as_deref()
    }

    /// `None` for all.
    pub(super) fn admitted_networks(&self) -> Option<&[(IpAddr, u8)]> {
        self.networks.as_deref()
    }

    pub(super) fn chosen_backends(&self) -> &[NixlBackend] {
        &self.backends
    }

    pub(super) fn parameters(&self) -> impl Iterator<Item = (&NixlBackend, &str, &str)> {
        self.parameters.iter().map(|((backend, name), value)| (backend, &**name, &**value))
    }

    /// UCX's settings, by their names without `UCX_`.
    pub(super) fn ucx_settings(&self) -> &BTreeMap<String, String> {
        &self.ucx
    }

    /// Whether all requests to a peer share one endpoint of UCX's, whose flush comes after all of them.
    pub(super) fn has_one_endpoint_per_peer(&self) -> bool {
        let has_more = |(_, name, _): (_, &str, _)| matches!(name, "num_workers" | "num_threads");
        self.backends == [NixlBackend::Ucx] && !self.parameters().any(has_more)
    }

    /// `None` without a progress thread.
    pub(super) fn progress(&self) -> Option<Duration> {
        self.progress_delay
    }
}

impl Default for NixlOptions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_options_and_names_are_the_same_settings() {
        let typed = NixlOptions::new()
            .network_devices(["eth0", "mlx5_0:1"])
            .transports(["tcp"])
            .rails(4)
            .modules(["^efa"])
            .log_level(UcxLogLevel::Error);
        let named = NixlOptions::new()
            .ucx("UCX_NET_DEVICES", "eth0,mlx5_0:1")
            .ucx("TLS", "all")
            .ucx("TLS", "tcp")
            .ucx("MAX_RMA_RAILS", "4")
            .ucx("MODULES", "^efa")
            .ucx("UCX_LOG_LEVEL", "error");
        assert_eq!(typed, named);
        assert_ne!(typed, NixlOptions::default());
    }

    #[test]
    fn a_backend_is_listed_once() {
        let twice = [NixlBackend::Libfabric, NixlBackend::Ucx, NixlBackend::Libfabric];
        let options = NixlOptions::new().backends(twice);
        assert_eq!(options.chosen_backends(), [NixlBackend::Libfabric, NixlBackend::Ucx]);
    }
}
