//! Settings of UCX: their choice, and their hand-over to the library.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard};

use nixl_device::locks::lock;
use nixl_ops::{EngineSetting, SettingSource};

use super::choice::{Machine, UcxDevices};
use super::fatal::{self, names_in};
use super::files;
use super::library::Ucx;
use super::lists::Lists;
use super::{log, replies};
use crate::nixl::parameters::engine_config;
use crate::nixl::{NixlOptions, NixlUnavailable};

const FIXED: &str = "UCX reads it once, when its library is loaded: set the variable in the environment before the program starts";

/// The settings of one connector, decided before UCX checks them. By their names without `UCX_`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::nixl) struct Plan(BTreeMap<String, (String, SettingSource)>);

impl Plan {
    /// Merges the environment, the options, UCX's files and the choices for this machine.
    pub(in crate::nixl) fn new(
        options: &NixlOptions,
        devices: &UcxDevices,
    ) -> Result<Self, NixlUnavailable> {
        let machine = Machine::of_these(devices);
        let environment = env::vars_os().filter_map(|(name, value)| {
            let name = name.to_str()?.strip_prefix("UCX_")?.to_owned();
            Some((name, value.to_string_lossy().into_owned()))
        });
        let configured = files::configured().into_iter().map(|(name, (value, _))| (name, value));
        let plan = Self::with(options, &machine, environment, configured)?;
        let is_chosen = matches!(plan.0.get("NET_DEVICES"), Some((_, SettingSource::Chosen)));
        let used = machine.refused.iter().filter(|name| plan.takes(&[name, "sm", "shm"]));
        for name in used {
            tracing::warn!(
                transport = name,
                "the system refuses what this transport of UCX needs, and an option or UCX_TLS names it: transfers will fail"
            );
        }
        if let Some(chosen) = machine.chosen.filter(|_| is_chosen) {
            tracing::warn!(
                interfaces = devices.interfaces(),
                chosen = chosen.join(","),
                "this machine has more network interfaces than UCX takes; choose some with NixlOptions::network_devices"
            );
        }
        Ok(plan)
    }

    fn with(
        options: &NixlOptions,
        machine: &Machine,
        environment: impl Iterator<Item = (String, String)>,
        configured: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, NixlUnavailable> {
        use SettingSource::{Chosen, Environment, File, Option};
        let mut settings: BTreeMap<_, _> =
            environment.map(|(name, value)| (name, (value, Environment))).collect();
        let handed = engine_config(options)?;
        let handed = handed.iter().map(|(name, value)| (name, value));
        for (name, value) in options.ucx_settings().iter().chain(handed) {
            check(name, value)?;
            match settings.get(name) {
                Some((theirs, _)) if theirs != value => {
                    tracing::warn!(
                        name,
                        value,
                        environment = theirs,
                        "the environment overrides this option of UCX"
                    );
                }
                Some(_) => {}
                None => {
                    settings.insert(name.clone(), (value.clone(), Option));
                }
            }
        }
        for (name, value) in configured {
            settings.entry(name).or_insert((value, File));
        }
        for (name, value) in machine.settings() {
            settings.entry(name.to_owned()).or_insert((value, Chosen));
        }
        for (name, (value, _)) in &settings {
            if let Some(reason) = fatal::reason(name, value) {
                return Err(refused(name, value, reason));
            }
        }
        Ok(Self(settings))
    }

    /// Whether UCX makes memory files for processes of this machine.
    pub(in crate::nixl) fn shares_memory(&self) -> bool {
        self.takes(&["posix", "mm", "sm", "shm"])
    }

    /// Whether UCX may use a transport with one of these names.
    fn takes(&self, names: &[&str]) -> bool {
        let Some((transports, _)) = self.0.get("TLS") else { return true };
        let mut listed = transports.trim_start_matches('^').split(',');
        if transports.starts_with('^') {
            return !listed.any(|transport| names.contains(&transport));
        }
        listed.any(|transport| transport == "all" || names.contains(&transport))
    }

    /// The number of the machine's network interfaces that UCX will use.
    pub(in crate::nixl) fn devices(&self, devices: &UcxDevices) -> usize {
        if !self.takes(&["tcp"]) {
            return 0;
        }
        match self.0.get("NET_DEVICES") {
            Some((value, _)) if value != "all" && !value.starts_with('^') => {
                names_in(value).min(devices.interfaces())
            }
            _ => devices.interfaces(),
        }
    }

    /// Sets UCX's settings, and makes an engine with those that NIXL passes on. Returns them with their origin. One at a time
    /// in the process: UCX reads its settings meanwhile. **Blocks.**
    pub(in crate::nixl) fn start<T>(
        &self,
        make: impl FnOnce(&str) -> Result<T, NixlUnavailable>,
    ) -> Result<(T, Vec<EngineSetting>), NixlUnavailable> {
        let process = alone();
        let ucx = Ucx::loaded();
        if let Some(ucx) = &ucx {
            log::hand_on(ucx);
            replies::outlive_readers(ucx, &process);
        }
        let mut lists = ucx.as_ref().map(|ucx| Lists::new(ucx, &process));
        let (mut settings, mut handed) = (Vec::new(), Vec::new());
        // UCX loads its modules at the first query of their settings.
        let is_global = |name: &str| {
            let name = CString::new(name).ok()?;
            ucx.as_ref()?.global(&name)
        };
        let (globals, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(name, _)| is_global(name).is_some());
        for (name, (value, source)) in globals.into_iter().chain(others) {
            let (mut value, mut source) = (value.clone(), *source);
            if source == SettingSource::File
                && let Some(in_force) = process.in_force().remove(name)
            {
                (value, source) = (in_force, SettingSource::EarlierConnector);
            } else if !matches!(source, SettingSource::Environment | SettingSource::File) {
                let given = match (&ucx, is_global(name)) {
                    (Some(ucx), Some(_)) => process.set(ucx, name, &value, source),
                    (ucx, _) => hand_on(ucx.as_ref(), lists.as_mut(), &mut handed, name, &value)
                        .map(|()| None),
                };
                match given {
                    Ok(None) => {}
                    Ok(Some(in_force)) => {
                        (value, source) = (in_force, SettingSource::EarlierConnector);
                    }
                    Err(error) if source == SettingSource::Chosen => {
                        tracing::warn!(%error, "UCX runs without a setting that this machine should have");
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            settings.push(EngineSetting::new(format!("UCX_{name}"), value, source));
        }
        for (name, value) in process.in_force() {
            if self.0.contains_key(&name) {
                continue;
            }
            let source = SettingSource::EarlierConnector;
            settings.push(EngineSetting::new(format!("UCX_{name}"), value, source));
        }
        settings.sort_by(|a, b| a.name().cmp(b.name()));
        let (made, error) = log::first_error(|| make(&handed.join(",")));
        match made {
            Ok(made) => Ok((made, settings)),
            // NIXL reports only a failed backend.
            Err(NixlUnavailable::Engine { what, mut reason, error: cause }) => {
                if !error.is_empty() {
                    reason = format!("{reason}, after UCX said: {error}");
                }
                reason.push_str(&restrictions(&settings));
                Err(NixlUnavailable::Engine { what, reason, error: cause })
            }
            Err(other) => Err(other),
        }
    }
}

/// The settings by which an option or the environment restricts what UCX uses, as the end of a sentence: UCX does not say that it
/// found nothing of what was named. Empty without any.
fn restrictions(settings: &[EngineSetting]) -> String {
    const NAMES: [&str; 2] = ["UCX_NET_DEVICES", "UCX_TLS"];
    /// Of a value.
    const LONGEST: usize = 200;
    let restrict = settings.iter().filter(|setting| {
        NAMES.contains(&setting.name()) && setting.source() != SettingSource::Chosen
    });
    let restrict: Vec<_> = restrict
        .map(|setting| setting.to_string().chars().take(LONGEST).collect::<String>())
        .collect();
    match restrict.is_empty() {
        true => String::new(),
        false => {
            format!("; UCX may use only what these name: {}", restrict.join(", ").escape_debug())
        }
    }
}

/// Passes a setting of contexts through NIXL, or sets it in UCX for this context.
fn hand_on(
    ucx: Option<&Ucx>,
    lists: Option<&mut Lists<'_>>,
    handed: &mut Vec<String>,
    name: &str,
    value: &str,
) -> Result<(), NixlUnavailable> {
    if let Some(ucx) = ucx {
        let (c_name, c_value) = c_strings(name, value)?;
        if ucx.takes(&c_name, &c_value) == Some(false) {
            let reason = "UCX does not know it, or rejects the value; `cargo xtask doctor` prints UCX's version".to_owned();
            return Err(refused(name, value, reason));
        }
    }
    if !value.contains(',') {
        handed.push(format!("{name}={value}"));
        return Ok(());
    }
    match lists {
        Some(lists) => lists.put(name, value).map_err(|reason| refused(name, value, reason)),
        None => Err(refused(name, value, "UCX's library is not found in this process".to_owned())),
    }
}

/// Process-wide settings of connectors. Its holder is the one connector that starts an engine.
#[derive(Debug)]
pub(in crate::nixl) struct Process(RefCell<BTreeMap<String, String>>);

/// Waits until no other connector of this process starts an engine. **Blocks.**
pub(in crate::nixl) fn alone() -> MutexGuard<'static, Process> {
    static PROCESS: Mutex<Process> = Mutex::new(Process(RefCell::new(BTreeMap::new())));
    lock(&PROCESS)
}

impl Process {
    /// The values, by names without `UCX_`.
    fn in_force(&self) -> BTreeMap<String, String> {
        self.0.borrow().clone()
    }

    /// Sets a process-wide setting, unless a connector has. Returns the earlier value if it differs and takes precedence.
    fn set(
        &self,
        ucx: &Ucx,
        name: &str,
        value: &str,
        source: SettingSource,
    ) -> Result<Option<String>, NixlUnavailable> {
        match self.0.borrow().get(name) {
            Some(in_force) if in_force == value => return Ok(None),
            Some(in_force) if source == SettingSource::Chosen => return Ok(Some(in_force.clone())),
            Some(in_force) => {
                return Err(NixlUnavailable::SettingInForce {
                    name: format!("UCX_{name}"),
                    value: value.to_owned(),
                    in_force: in_force.clone(),
                });
            }
            None => {}
        }
        let (c_name, c_value) = c_strings(name, value)?;
        if ucx.is_fixed(&c_name) {
            return Err(refused(name, value, FIXED.to_owned()));
        }
        if !ucx.set_global(&c_name, &c_value) {
            return Err(refused(name, value, "UCX rejects the value".to_owned()));
        }
        self.0.borrow_mut().insert(name.to_owned(), value.to_owned());
        Ok(None)
    }
}

fn refused(name: &str, value: &str, reason: String) -> NixlUnavailable {
    NixlUnavailable::Setting { name: format!("UCX_{name}"), value: value.to_owned(), reason }
}

fn c_strings(name: &str, value: &str) -> Result<(CString, CString), NixlUnavailable> {
    let c_string = |text: &str| {
        CString::new(text).map_err(|_| refused(name, value, "it has a NUL".to_owned()))
    };
    Ok((c_string(name)?, c_string(value)?))
}

/// An option of the application.
fn check(name: &str, value: &str) -> Result<(), NixlUnavailable> {
    let is_fit = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let reason = if name.is_empty() || !name.chars().all(is_fit) {
        "UCX's names have capital letters, digits and underscores"
    } else if value.chars().any(char::is_control) {
        "the value has control characters"
    } else {
        return Ok(());
    };
    Err(refused(name, value, reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use SettingSource::{Chosen, Environment, Option};

    const PLAIN: Machine = Machine {
        has_cuda: false,
        has_rdma: false,
        has_efa: false,
        chosen: None,
        refused: Vec::new(),
    };

    fn plan(
        options: &NixlOptions,
        machine: &Machine,
        environment: &[(&str, &str)],
    ) -> Result<Vec<(String, String, SettingSource)>, NixlUnavailable> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let plan = Plan::with(options, machine, environment, [].into_iter())?;
        Ok(plan.0.into_iter().map(|(name, (value, source))| (name, value, source)).collect())
    }

    fn entry(name: &str, value: &str, source: SettingSource) -> (String, String, SettingSource) {
        (name.to_owned(), value.to_owned(), source)
    }

    #[test]
    fn the_environment_goes_before_options_and_options_before_choices() {
        let options = NixlOptions::new().transports(["tcp"]).rails(3).modules(["all"]);
        let chosen = Some(vec!["eth0".to_owned(), "lo".to_owned()]);
        let machine = Machine { chosen, ..PLAIN };
        assert_eq!(
            plan(&options, &machine, &[("TLS", "all"), ("NOT_OURS", "1")]).unwrap(),
            [
                entry("MAX_RMA_RAILS", "3", Option),
                entry("MODULES", "all", Option),
                entry("NET_DEVICES", "eth0,lo", Chosen),
                entry("NOT_OURS", "1", Environment),
                entry("RCACHE_ENABLE", "n", Chosen),
                entry("TCP_CONN_NB", "y", Chosen),
                entry("TLS", "all", Environment),
            ]
        );
        let by_hand = NixlOptions::new().network_devices(["lo"]);
        assert!(plan(&by_hand, &machine, &[]).unwrap().contains(&entry(
            "NET_DEVICES",
            "lo",
            Option
        )));
    }

    #[test]
    fn a_file_goes_before_choices_and_options_before_it() {
        let machine = Machine { refused: vec!["cma"], ..PLAIN };
        let options = NixlOptions::new().rails(3);
        let file = [("TLS", "tcp"), ("MAX_RMA_RAILS", "1"), ("RCACHE_ENABLE", "y")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let environment = [("RCACHE_ENABLE", "try")].into_iter().map(owned);
        let plan = Plan::with(&options, &machine, environment, file.into_iter().map(owned));
        let plan = plan.unwrap();
        let is = |value: &str, source| Some((value.to_owned(), source));
        assert_eq!(plan.0.get("TLS").cloned(), is("tcp", SettingSource::File));
        assert_eq!(plan.0.get("MAX_RMA_RAILS").cloned(), is("3", Option));
        assert_eq!(plan.0.get("RCACHE_ENABLE").cloned(), is("try", Environment));
        assert!(!plan.shares_memory());
    }

    #[test]
    fn the_efa_module_is_left_out_without_such_a_device() {
        let left_out = entry("MODULES", "^efa", Chosen);
        let options = NixlOptions::new();
        assert!(plan(&options, &PLAIN, &[]).unwrap().contains(&left_out));
        let with_efa = Machine { has_efa: true, ..PLAIN };
        assert!(!plan(&options, &with_efa, &[]).unwrap().contains(&left_out));
    }

    #[test]
    fn transports_that_the_system_refuses_are_left_out() {
        let machine = Machine { refused: vec!["cma", "posix"], ..PLAIN };
        let left_out = entry("TLS", "^cma,posix", Chosen);
        assert!(plan(&NixlOptions::new(), &machine, &[]).unwrap().contains(&left_out));
        let by_hand = plan(&NixlOptions::new().transports(["tcp"]), &machine, &[]).unwrap();
        assert!(by_hand.contains(&entry("TLS", "tcp", Option)));
    }

    #[test]
    fn memory_is_watched_for_nics_and_gpus_alone() {
        let watches_not = entry("RCACHE_ENABLE", "n", Chosen);
        let options = NixlOptions::new();
        assert!(plan(&options, &PLAIN, &[]).unwrap().contains(&watches_not));
        for machine in [Machine { has_rdma: true, ..PLAIN }, Machine { has_cuda: true, ..PLAIN }] {
            assert!(!plan(&options, &machine, &[]).unwrap().contains(&watches_not));
        }
        let by_hand = plan(&options, &PLAIN, &[("RCACHE_ENABLE", "try")]).unwrap();
        assert!(by_hand.contains(&entry("RCACHE_ENABLE", "try", Environment)));
    }

    #[test]
    fn interfaces_are_counted_that_ucx_will_use() {
        let devices = UcxDevices::of_this_machine();
        let all = devices.interfaces();
        for (transports, expected) in [
            ("all", all),
            ("tcp,self", all),
            ("^rc", all),
            ("sysv,self", 0),
            ("^tcp", 0),
            ("^rc,tcp", 0),
        ] {
            let options = NixlOptions::new().ucx("TLS", transports);
            let plan = Plan::with(&options, &PLAIN, [].into_iter(), [].into_iter()).unwrap();
            assert_eq!(plan.devices(&devices), expected, "{transports}");
        }
        let one = NixlOptions::new().network_devices(["lo"]);
        assert_eq!(
            Plan::with(&one, &PLAIN, [].into_iter(), [].into_iter()).unwrap().devices(&devices),
            all.min(1)
        );
    }

    #[test]
    fn files_in_memory_are_those_of_shared_memory() {
        for (transports, expected) in [
            ("all", true),
            ("tcp,self", false),
            ("sm,self", true),
            ("^posix", false),
            ("^tcp", true),
        ] {
            let options = NixlOptions::new().ucx("TLS", transports);
            let plan = Plan::with(&options, &PLAIN, [].into_iter(), [].into_iter()).unwrap();
            assert_eq!(plan.shares_memory(), expected, "{transports}");
        }
    }

    #[test]
    fn gpus_have_ucx_ask_the_driver() {
        let with_cuda = Machine { has_cuda: true, ..PLAIN };
        let asks = entry("MEMTYPE_CACHE", "n", Chosen);
        assert!(plan(&NixlOptions::new(), &with_cuda, &[]).unwrap().contains(&asks));
    }

    #[test]
    fn what_restricts_ucx_is_told() {
        let setting = |name: &str, value: &str, source| EngineSetting::new(name, value, source);
        let told = restrictions(&[
            setting("UCX_NET_DEVICES", &"\u{1b}".repeat(1000), Environment),
            setting("UCX_RCACHE_ENABLE", "n", Option),
            setting("UCX_TLS", "rc", Option),
        ]);
        assert!(told.contains("UCX_TLS=rc (option)") && told.contains("\\u{1b}\\u{1b}"), "{told}");
        assert!(told.len() < 2000 && !told.contains("RCACHE"), "{told}");
        assert_eq!(restrictions(&[setting("UCX_NET_DEVICES", "lo", Chosen)]), "");
    }

    #[test]
    fn what_would_end_the_process_or_be_ignored_is_refused() {
        let refuses = |options: NixlOptions, environment: &[(&str, &str)]| {
            let refused = plan(&options, &PLAIN, environment);
            assert!(matches!(refused, Err(NixlUnavailable::Setting { .. })), "{refused:?}");
        };
        let many: Vec<String> = (0..65).map(|n| format!("eth{n}")).collect();
        refuses(NixlOptions::new().network_devices(&many), &[]);
        refuses(NixlOptions::new().network_devices(["eth[0-9]", "veth[1-99]"]), &[]);
        refuses(NixlOptions::new(), &[("NET_DEVICES", &many.join(","))]);
        refuses(NixlOptions::new().ucx("tls", "tcp"), &[]);
        refuses(NixlOptions::new().ucx("", "tcp"), &[]);
        refuses(NixlOptions::new().ucx("TLS", "tcp\nself"), &[]);
        assert!(plan(&NixlOptions::new().network_devices(["mlx5_[0-63]:1"]), &PLAIN, &[]).is_ok());
    }
}
