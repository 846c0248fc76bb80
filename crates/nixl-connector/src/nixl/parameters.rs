//! NIXL's parameters of its UCX backend that neither NIXL nor UCX checks.

use super::library::NixlUnavailable;
use super::options::{NixlBackend, NixlOptions};

/// Settings of UCX, `NAME=VALUE` between commas: the plan checks them as those of [`NixlOptions::ucx`].
pub(super) const ENGINE_CONFIG: &str = "engine_config";

const WORKERS: &str = "num_workers";
const THREADS: &str = "num_threads";
/// More end the process, or hang it: each worker opens files, and NIXL waits for threads that the system refuses.
const MOST: usize = 64;

/// The UCX workers of an agent, and the threads that NIXL starts for them beside its progress thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Parallelism {
    pub(super) workers: usize,
    pub(super) threads: usize,
}

impl Parallelism {
    /// # Errors
    ///
    /// [`NixlUnavailable::Setting`] for what is no number, or too large a one.
    pub(super) fn of(options: &NixlOptions) -> Result<Self, NixlUnavailable> {
        let workers = number(options, WORKERS, 1)?.unwrap_or(1);
        let threads = number(options, THREADS, 0)?.unwrap_or(0);
        // NIXL gives each of its threads a worker, beside a shared one.
        let dedicated = if threads == 0 { 0 } else { threads + 1 };
        Ok(Self { workers: workers.max(dedicated), threads })
    }
}

/// The settings in `engine_config`, by their names without `UCX_`.
pub(super) fn engine_config(
    options: &NixlOptions,
) -> Result<Vec<(String, String)>, NixlUnavailable> {
    let Some(config) = of_ucx(options, ENGINE_CONFIG) else { return Ok(Vec::new()) };
    let pairs = config.split(',').filter(|pair| !pair.trim().is_empty());
    let pair = |pair: &str| match pair.trim().split_once('=') {
        Some((name, value)) => {
            Ok((name.strip_prefix("UCX_").unwrap_or(name).to_owned(), value.to_owned()))
        }
        None => Err(refused(ENGINE_CONFIG, config, "it is a list of NAME=VALUE".to_owned())),
    };
    pairs.map(pair).collect()
}

fn number(
    options: &NixlOptions,
    name: &str,
    least: usize,
) -> Result<Option<usize>, NixlUnavailable> {
    let Some(value) = of_ucx(options, name) else { return Ok(None) };
    match value.parse() {
        Ok(number) if (least..=MOST).contains(&number) => Ok(Some(number)),
        _ => {
            let reason = format!("it is no number from {least} to {MOST}");
            Err(refused(name, value, reason))
        }
    }
}

fn of_ucx<'a>(options: &'a NixlOptions, name: &str) -> Option<&'a str> {
    let is_it = |(backend, of, _): &(&NixlBackend, &str, &str)| {
        **backend == NixlBackend::Ucx && *of == name
    };
    options.parameters().find(is_it).map(|(.., value)| value)
}

fn refused(name: &str, value: &str, reason: String) -> NixlUnavailable {
    let name = format!("{}.{name}", NixlBackend::Ucx.name());
    NixlUnavailable::Setting { name, value: value.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Parallelism = Parallelism { workers: 1, threads: 0 };

    fn with(name: &str, value: &str) -> NixlOptions {
        NixlOptions::new().parameter(NixlBackend::Ucx, name, value)
    }

    #[test]
    fn numbers_of_workers_and_threads() {
        let of = |name, value| Parallelism::of(&with(name, value));
        assert_eq!(Parallelism::of(&NixlOptions::new()), Ok(ONE));
        assert_eq!(of(WORKERS, "2"), Ok(Parallelism { workers: 2, threads: 0 }));
        assert_eq!(of(THREADS, "0"), Ok(ONE));
        assert_eq!(of(THREADS, "64"), Ok(Parallelism { workers: 65, threads: 64 }));
        for bad in
            ["", "0", "-1", "65", "1e3", " 2", "18446744073709551615", "18446744073709551616"]
        {
            let error = of(WORKERS, bad).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("UCX.num_workers={bad} cannot be set: it is no number from 1 to 64")
            );
            assert_eq!(of(THREADS, bad).is_err(), bad != "0", "{bad}");
        }
        // Of another backend, whose they are.
        let other = NixlOptions::new().parameter(NixlBackend::Libfabric, WORKERS, "x");
        assert_eq!(Parallelism::of(&other), Ok(ONE));
    }

    #[test]
    fn settings_in_one_parameter() {
        let of = |value| engine_config(&with(ENGINE_CONFIG, value));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of("").unwrap(), []);
        assert_eq!(of("A=1,UCX_B=2=3,").unwrap(), [pair("A", "1"), pair("B", "2=3")]);
        let error = of("A=1,B").unwrap_err().to_string();
        assert_eq!(error, "UCX.engine_config=A=1,B cannot be set: it is a list of NAME=VALUE");
    }

    proptest! {
        #[test]
        fn any_text_is_settings_or_an_error(text in ".{0,40}") {
            if let Ok(pairs) = engine_config(&with(ENGINE_CONFIG, &text)) {
                prop_assert!(pairs.iter().all(|(name, _)| !name.contains('=')));
            }
        }
    }
}
