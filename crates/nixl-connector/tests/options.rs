//! Options of NIXL and UCX, over real NIXL.
#![cfg(feature = "nixl")]
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use nixl_connector::nixl::{NixlBackend, NixlOptions, NixlUnavailable, UcxLogLevel};
use nixl_connector::{Connector, ConnectorError, EngineSetting, SettingSource};
use nixl_device::{NetworkInterface, TcpSocket, TcpState};

fn build(options: NixlOptions) -> Result<Connector, ConnectorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Connector::builder().name("options").nixl(options).build())
}

fn refusal(options: NixlOptions) -> NixlUnavailable {
    match build(options) {
        Err(ConnectorError::Nixl(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The addresses on which this process listens, one for each interface that UCX uses.
fn addresses() -> Vec<SocketAddr> {
    let sockets = TcpSocket::all_of_this_process().unwrap();
    let listening = sockets.iter().filter(|socket| socket.state() == TcpState::Listen);
    listening.filter_map(|socket| socket.local()).collect()
}

fn listening() -> usize {
    addresses().len()
}

fn setting(connector: &Connector, name: &str) -> Option<EngineSetting> {
    connector.engine_settings().into_iter().find(|setting| setting.name() == name)
}

fn source(connector: &Connector, name: &str) -> Option<SettingSource> {
    setting(connector, name).map(|setting| setting.source())
}

/// One test, since some settings are of the process.
#[test]
fn options_reach_ucx_and_are_told() {
    // A list is in force for the connector that gives it, and for no other.
    let before = listening();
    let loopback = NixlOptions::new().network_devices(["lo", "no-such0"]).rails(3);
    let connector = build(loopback).unwrap();
    assert_eq!(listening(), before + 1, "UCX listens on one interface");
    let are_local = addresses().iter().all(|address| address.ip().is_loopback());
    assert!(are_local, "other hosts reach {:?}", addresses());
    let devices = setting(&connector, "UCX_NET_DEVICES").unwrap();
    assert_eq!(devices.to_string(), "UCX_NET_DEVICES=lo,no-such0 (option)");
    assert_eq!(source(&connector, "UCX_MAX_RMA_RAILS"), Some(SettingSource::Option));
    assert_eq!(source(&connector, "UCX_TCP_CONN_NB"), Some(SettingSource::Chosen));
    assert!(format!("{connector:?}").contains("UCX_NET_DEVICES=lo,no-such0"), "{connector:?}");

    let before = listening();
    let other = build(NixlOptions::new()).unwrap();
    assert_eq!(listening(), before + NetworkInterface::all().len(), "UCX listens on all of them");
    assert_eq!(setting(&other, "UCX_NET_DEVICES"), None);

    // One value, which NIXL hands on; and a list, which it does not.
    let before = listening();
    let sockets = NixlOptions::new().transports(["tcp", "self"]).network_devices(["lo"]);
    let third = build(sockets).unwrap();
    assert_eq!(listening(), before + 1, "UCX listens on one interface");
    assert_eq!(setting(&third, "UCX_TLS").unwrap().to_string(), "UCX_TLS=tcp,self (option)");
    drop((connector, other, third));

    // What is of the process is set once.
    let modules = refusal(NixlOptions::new().modules(["^rocm"]));
    assert!(matches!(modules, NixlUnavailable::SettingInForce { .. }), "{modules:?}");
    assert!(modules.to_string().contains("^efa"), "{modules}");
    let quiet = build(NixlOptions::new().log_level(UcxLogLevel::Error)).unwrap();
    assert_eq!(source(&quiet, "UCX_LOG_LEVEL"), Some(SettingSource::Option));
    let same = build(NixlOptions::new().log_level(UcxLogLevel::Error)).unwrap();
    let none = build(NixlOptions::new()).unwrap();
    assert_eq!(source(&none, "UCX_LOG_LEVEL"), Some(SettingSource::EarlierConnector));
    let loud = refusal(NixlOptions::new().log_level(UcxLogLevel::Info));
    assert!(loud.to_string().contains("earlier connector"), "{loud}");
    drop((quiet, same, none));

    // What UCX would ignore, or end the process for.
    let many: Vec<String> = (0..65).map(|n| format!("eth{n}")).collect();
    let refused = [
        NixlOptions::new().ucx("LOG_FILE", "/tmp/log"),
        NixlOptions::new().ucx("MAX_RMA_RAILS", "many"),
        NixlOptions::new().ucx("NO_SUCH_SETTING", "1"),
        NixlOptions::new().ucx("TCP_AF_PRIO", "inet,inet6"),
        NixlOptions::new().network_devices(&many),
        NixlOptions::new().network_devices(["a long name"; 2]),
        NixlOptions::new().admit_networks([(Ipv4Addr::LOCALHOST, 33)]),
    ];
    for options in refused {
        let error = refusal(options);
        assert!(matches!(error, NixlUnavailable::Setting { .. }), "{error:?}");
    }

    // UCX cannot start.
    let nothing = refusal(NixlOptions::new().transports(["self"]));
    assert!(matches!(nothing, NixlUnavailable::Engine { .. }), "{nothing:?}");
    assert!(nothing.source().is_some_and(|error| error.is::<nixl_sys::NixlError>()), "{nothing:?}");
    assert!(nothing.to_string().contains("after UCX said: "), "{nothing}");

    // Backends.
    assert_eq!(refusal(NixlOptions::new().backends([])), NixlUnavailable::NoBackend);
    let workers = NixlOptions::new().parameter(NixlBackend::Ucx, "num_workers", "2");
    let connector = build(workers).unwrap();
    assert_eq!(setting(&connector, "UCX.num_workers").unwrap().value(), "2");
    let engine =
        NixlOptions::new().parameter(NixlBackend::Ucx, "engine_config", "MAX_EAGER_RAILS=1");
    let connector = build(engine).unwrap();
    assert_eq!(source(&connector, "UCX_MAX_EAGER_RAILS"), Some(SettingSource::Option));
    assert_eq!(source(&connector, "UCX.engine_config"), None);
    // At which UCX or NIXL end the process, or hang it.
    for (name, value) in [
        ("engine_config", "NUM_PPN=0"),
        ("engine_config", "MAX_EAGER_RAILS=1,UCX_TOPO_PRIO="),
        ("engine_config", "no setting"),
        ("num_workers", "18446744073709551615"),
        ("num_workers", "0"),
        ("num_threads", "65"),
    ] {
        let error = refusal(NixlOptions::new().parameter(NixlBackend::Ucx, name, value));
        assert!(matches!(error, NixlUnavailable::Setting { .. }), "{name}={value}: {error:?}");
    }
    // Where its library is missing, it is named.
    match build(NixlOptions::new().backends([NixlBackend::Libfabric])) {
        Ok(connector) => assert!(format!("{connector:?}").contains("LIBFABRIC")),
        Err(error) => assert!(error.to_string().contains("LIBFABRIC"), "{error}"),
    }
}
