//! The UCX transports that `UCX_TLS` allows.

use nixl_device::PerProcess;

/// The kinds of transport that `UCX_TLS` allows.
///
/// An inference: the variable is parsed by UCX's documented rules, without a query of UCX, and only by names of transports. An
/// allowed transport need not exist on the machine, and the other side's variable is unknown. For paths without UCX the
/// variable expresses the user's intent: `tcp,cuda_copy` excludes shared memory and CUDA IPC, for this executor as well.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct UcxTransports {
    /// Host memory of one machine: `posix`, `sysv`, `xpmem`, `cma` or `knem`.
    pub(crate) shared_memory: bool,
    /// InfiniBand, RoCE or EFA: a transport of `ib` or `srd`.
    pub(crate) rdma: bool,
    /// `tcp`.
    pub(crate) tcp: bool,
    /// `cuda_copy`, without which UCX accepts no GPU memory.
    pub(crate) cuda_copy: bool,
    /// `cuda_ipc`.
    pub(crate) cuda_ipc: bool,
}

const SHARED_MEMORY: u32 = 0b1_1111;
const RDMA: u32 = 0b11_1111 << 5;
const TCP: u32 = 1 << 11;
const CUDA_COPY: u32 = 1 << 12;
const CUDA_IPC: u32 = 1 << 13;
const ALL: u32 = u32::MAX;

/// Names of single transports.
const TRANSPORTS: [(&str, u32); 14] = [
    ("posix", 1),
    ("sysv", 1 << 1),
    ("xpmem", 1 << 2),
    ("cma", 1 << 3),
    ("knem", 1 << 4),
    ("rc_verbs", 1 << 5),
    ("rc_mlx5", 1 << 6),
    ("dc_mlx5", 1 << 7),
    ("ud_verbs", 1 << 8),
    ("ud_mlx5", 1 << 9),
    ("srd", 1 << 10),
    ("tcp", TCP),
    ("cuda_copy", CUDA_COPY),
    ("cuda_ipc", CUDA_IPC),
];

/// Aliases of several transports.
const ALIASES: [(&str, u32); 14] = [
    ("all", ALL),
    ("sm", SHARED_MEMORY),
    ("shm", SHARED_MEMORY),
    ("mm", 0b111),
    ("ib", RDMA & !(1 << 10)),
    ("rc", 0b11 << 5),
    ("rc_v", 1 << 5),
    ("rc_x", 1 << 6),
    ("dc", 1 << 7),
    ("dc_x", 1 << 7),
    ("ud", 0b11 << 8),
    ("ud_v", 1 << 8),
    ("ud_x", 1 << 9),
    ("cuda", CUDA_COPY | CUDA_IPC),
];

impl UcxTransports {
    /// All of them, as without the variable.
    pub(crate) const ALL: Self = Self::from_bits(ALL);

    /// Parses a value of `UCX_TLS`: a list of transports and aliases, separated by commas, or the excluded ones after a `^`. An
    /// unknown name allows nothing, a name marked `:aux` carries no data, and a name after a backslash is no alias. UCX refuses
    /// an empty list, so it allows nothing.
    #[must_use]
    pub(crate) fn parse(value: &str) -> Self {
        let value = value.trim();
        let (names, inverse) = match value.strip_prefix('^') {
            Some(names) => (names, true),
            None => (value, false),
        };
        let bits = names.split(',').map(|name| bits(name.trim())).fold(0, |all, one| all | one);
        Self::from_bits(if inverse { !bits } else { bits })
    }

    /// The transports that this process's environment allows, read once, as by UCX.
    #[must_use]
    pub(crate) fn of_this_process() -> Self {
        static READ: PerProcess<UcxTransports> =
            PerProcess::new(|| match std::env::var_os("UCX_TLS") {
                Some(value) => UcxTransports::parse(&value.to_string_lossy()),
                None => UcxTransports::ALL,
            });
        *READ.get()
    }

    const fn from_bits(bits: u32) -> Self {
        Self {
            shared_memory: bits & SHARED_MEMORY != 0,
            rdma: bits & RDMA != 0,
            tcp: bits & TCP != 0,
            cuda_copy: bits & CUDA_COPY != 0,
            cuda_ipc: bits & CUDA_IPC != 0,
        }
    }
}

impl Default for UcxTransports {
    fn default() -> Self {
        Self::ALL
    }
}

fn bits(name: &str) -> u32 {
    let (strict, name) = match name.strip_prefix('\\') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let (name, auxiliary) = match name.split_once(':') {
        Some((name, resource)) => (name, resource == "aux"),
        None => (name, false),
    };
    if auxiliary {
        return 0;
    }
    let aliases = ALIASES.iter().filter(|_| !strict);
    TRANSPORTS.iter().chain(aliases).find(|(known, _)| *known == name).map_or(0, |(_, bits)| *bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: UcxTransports = UcxTransports::from_bits(0);

    #[test]
    fn lists_as_they_are_written() {
        let parse = UcxTransports::parse;
        assert_eq!(parse("all"), UcxTransports::ALL);
        assert_eq!(parse("tcp,cuda_copy"), UcxTransports { tcp: true, cuda_copy: true, ..NONE });
        for shared in ["shm", "sm", "cma", "mm", "posix,self", "self, sysv"] {
            assert_eq!(parse(shared), UcxTransports { shared_memory: true, ..NONE }, "{shared}");
        }
        for rdma in ["ib", "rc", "rc_x", "dc", "ud", "srd", "rc_mlx5,ud:aux"] {
            assert_eq!(parse(rdma), UcxTransports { rdma: true, ..NONE }, "{rdma}");
        }
        assert_eq!(parse("cuda"), UcxTransports { cuda_copy: true, cuda_ipc: true, ..NONE });
        for nothing in ["", "self", "nonsense", "\\rc", "tcp:aux"] {
            assert_eq!(parse(nothing), NONE, "{nothing}");
        }
        assert!(parse("\\tcp").tcp);
    }

    #[test]
    fn a_caret_takes_away() {
        let parse = UcxTransports::parse;
        assert_eq!(parse("^tcp"), UcxTransports { tcp: false, ..UcxTransports::ALL });
        assert_eq!(
            parse("^sm,cuda_ipc"),
            UcxTransports { shared_memory: false, cuda_ipc: false, ..UcxTransports::ALL }
        );
        // The others of the family are left.
        assert_eq!(parse("^cma,rc_x"), UcxTransports::ALL);
    }

    fn list() -> impl Strategy<Value = String> {
        let names: Vec<_> = TRANSPORTS.iter().chain(&ALIASES).map(|(name, _)| *name).collect();
        proptest::collection::vec(proptest::sample::select(names), 1..6).prop_map(|l| l.join(","))
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in any::<String>()) {
            let _ = UcxTransports::parse(&text);
        }

        #[test]
        fn order_and_repetition_do_not_matter(one in list(), other in list()) {
            let parse = |a: &str, b: &str| UcxTransports::parse(&format!("{a},{b},{a}"));
            prop_assert_eq!(parse(&one, &other), parse(&other, &one));
        }

        #[test]
        fn what_is_not_allowed_is_taken_away_by_a_caret(names in list()) {
            let (with, without) = (UcxTransports::parse(&names), UcxTransports::parse(&format!("^{names}")));
            // TCP has no family: it is in exactly one of the two.
            prop_assert_ne!(with.tcp, without.tcp);
            prop_assert!(with.shared_memory || without.shared_memory);
            prop_assert!(with.rdma || without.rdma);
        }
    }
}
