//! The backends of an agent: their plugins, and their settings.

use std::env;
use std::path::PathBuf;

use nixl_ops::{EngineSetting, SettingSource};
use nixl_sys::{Backend, NixlError, Params};

use super::super::files;
use super::super::library::NixlUnavailable;
use super::super::options::{NixlBackend, NixlOptions};
use super::super::parameters::ENGINE_CONFIG;
use super::super::signals::Handlers;
use super::super::ucx::{Plan, WakeUps};

/// Loads the plugins of the backends, and UCX with its own.
pub(super) fn load_plugins(
    agent: &nixl_sys::Agent,
    options: &NixlOptions,
) -> Result<Vec<(NixlBackend, Params)>, NixlUnavailable> {
    let backends = options.chosen_backends();
    if backends.is_empty() {
        return Err(NixlUnavailable::NoBackend);
    }
    let _handlers = Handlers::keep();
    let load = |backend: &NixlBackend| {
        let (_, params) =
            agent.get_plugin_params(backend.name()).map_err(|_| NixlUnavailable::NoPlugin {
                backend: backend.name(),
                folder: env::var_os("NIXL_PLUGIN_DIR").map(PathBuf::from),
                variables: set_variables(),
            })?;
        Ok((backend.clone(), params))
    };
    backends.iter().map(load).collect()
}

/// The parameters of backends, without the settings of UCX, which are part of the plan.
fn given(options: &NixlOptions) -> impl Iterator<Item = (&NixlBackend, &str, &str)> {
    let is_planned = |of: &NixlBackend, name| *of == NixlBackend::Ucx && name == ENGINE_CONFIG;
    options.parameters().filter(move |(of, name, _)| !is_planned(of, *name))
}

/// Makes the backends, and UCX with its settings. One at a time in the process.
pub(super) fn create_backends(
    agent: &nixl_sys::Agent,
    plugins: Vec<(NixlBackend, Params)>,
    options: &NixlOptions,
    plan: &Plan,
) -> Result<(Vec<Backend>, Vec<EngineSetting>), NixlUnavailable> {
    let create = |(backend, mut params): (NixlBackend, Params), handed: &str| {
        let failed = |e: NixlError| {
            let files = files::explanation();
            NixlUnavailable::Engine {
                what: "backend",
                reason: format!("{}: {e}{files}", backend.name()),
                error: e.into(),
            }
        };
        for (_, name, value) in given(options).filter(|(of, ..)| **of == backend) {
            params.set(name, value).map_err(failed)?;
        }
        if backend == NixlBackend::Ucx && !handed.is_empty() {
            params.set(ENGINE_CONFIG, handed).map_err(failed)?;
        }
        agent.create_backend(backend.name(), &params).map_err(failed)
    };
    let wake_ups = WakeUps::before();
    let create_all = |handed: &str| plugins.into_iter().map(|p| create(p, handed)).collect();
    let (backends, mut settings) = if options.chosen_backends().contains(&NixlBackend::Ucx) {
        plan.start(create_all).map_err(with_variables)?
    } else {
        (create_all("").map_err(with_variables)?, Vec::new())
    };
    wake_ups.keep_apart();
    if let Some(networks) = options.admitted_networks() {
        let networks: Vec<_> = networks.iter().map(|(of, bits)| format!("{of}/{bits}")).collect();
        settings.push(EngineSetting::new(
            "admit_networks",
            networks.join(","),
            SettingSource::Option,
        ));
    }
    for (backend, name, value) in given(options) {
        let name = format!("{}.{name}", backend.name());
        settings.push(EngineSetting::new(name, value, SettingSource::Option));
    }
    Ok((backends, settings))
}

/// The variables of NIXL in the environment, as the end of a sentence: a value that NIXL cannot read ends the start of an agent, and
/// NIXL does not say which. Empty without any.
pub(super) fn set_variables() -> String {
    const OURS: [&str; 3] = ["NIXL_PREFIX", "NIXL_RUNTIME_DIR", "NIXL_TEST_"];
    let is_nixls = |name: &String| {
        name.starts_with("NIXL_") && !OURS.iter().any(|ours| name.starts_with(ours))
    };
    let names = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(is_nixls)?;
        Some(format!("{name}={}", value.to_string_lossy()))
    });
    let names: Vec<_> = names.collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; NIXL reads these variables: {}", names.join(", ")),
    }
}

/// A failed backend, with the variables by which it may have failed.
fn with_variables(error: NixlUnavailable) -> NixlUnavailable {
    match error {
        NixlUnavailable::Engine { what, reason, error } => {
            NixlUnavailable::Engine { what, reason: reason + &set_variables(), error }
        }
        other => other,
    }
}
