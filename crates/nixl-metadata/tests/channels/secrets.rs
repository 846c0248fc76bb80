//! Nothing secret is printed, and nothing unsealed leaves the host in the clear.

use nixl_metadata::channel::http::{HttpOptions, RouterOptions};
use nixl_metadata::channel::tcp::{Server, ServerOptions, TcpOptions};
use nixl_metadata::channel::{ChannelError, Exposure, Hub, Incarnation, http, tcp};
use nixl_metadata::seal::{OpenKey, Opener, SealKey, Sealer, Seals};

use crate::servers::{Backend as _, Http, TOKEN};
use crate::suite::{entry, name, options};

fn seals() -> Seals {
    let key = SealKey::generate_local().unwrap();
    let valid = std::time::Duration::from_secs(60);
    let sealer = Sealer::new(SealKey::from_paserk(&key).unwrap(), "a", valid).unwrap();
    Seals::new(sealer, Opener::new([OpenKey::from_paserk(&key).unwrap()], "a").unwrap())
}

fn is_unsealed<T>(result: Result<T, ChannelError>) -> bool {
    matches!(result, Err(ChannelError::Unsealed { .. }))
}

#[test]
fn unsealed_metadata_to_another_host_is_refused_unless_it_is_allowed_by_name() {
    let tcp = |options| tcp::connect("metadata.example.org:7700", TcpOptions::new(), options);
    let http =
        |options| http::connect("http://metadata.example.org/channel", HttpOptions::new(), options);
    let allowed = || options().allow_unsealed("metadata.example.org");
    assert!(is_unsealed(tcp(options())) && is_unsealed(http(options())));
    assert!(is_unsealed(tcp(options().allow_unsealed("example.org"))));
    assert!(tcp(allowed()).is_ok() && http(allowed()).is_ok());
    assert!(tcp(options().seals(seals())).is_ok() && http(options().seals(seals())).is_ok());
    assert!(tcp::connect("unix:/nowhere", TcpOptions::new(), options()).is_ok());
    // Signed metadata can be read.
    let (secret, public) = SealKey::generate_pair().unwrap();
    let sealer = Sealer::new(SealKey::from_paserk(&secret).unwrap(), "a", options_valid()).unwrap();
    let opener = Opener::new([OpenKey::from_paserk(&public).unwrap()], "a").unwrap();
    assert!(is_unsealed(tcp(options().seals(Seals::new(sealer, opener)))));
}

const fn options_valid() -> std::time::Duration {
    std::time::Duration::from_secs(60)
}

#[tokio::test]
async fn a_server_for_other_hosts_passes_on_what_is_sealed_alone() {
    // The seals of a server's own options say nothing about what it passes on.
    for server_options in [options(), options().seals(seals())] {
        let hub = Hub::default();
        let server = Server::bind("0.0.0.0:0", hub.clone(), ServerOptions::new(), server_options);
        let server = server.await.unwrap();
        let address = format!("127.0.0.1:{}", server.local_addr().unwrap().port());
        let _own = hub.channel(options()).publish(entry("open", 1, b"metadata")).await.unwrap();
        let plain = tcp::connect(&*address, TcpOptions::new(), options()).unwrap();
        assert!(is_unsealed(plain.fetch(&name("open")).await));
        assert!(is_unsealed(plain.publish(entry("w", 1, b"metadata")).await));
        let sealed = options().seals(seals());
        let sealed = tcp::connect(&*address, TcpOptions::new(), sealed).unwrap();
        let _published = sealed.publish(entry("w", 1, b"metadata")).await.unwrap();
        assert_eq!(sealed.fetch(&name("w")).await.unwrap(), entry("w", 1, b"metadata"));
        let mut inbox = sealed.serve(&name("w"), Incarnation::new(1)).await.unwrap();
        let (me, w) = (name("me"), name("w"));
        let asks = sealed.request(&me, &w, "ticket?".into(), options_valid());
        let (reply, ()) = tokio::join!(asks, async {
            inbox.next().await.unwrap().reply("ticket").unwrap();
        });
        assert_eq!(&reply.unwrap()[..], b"ticket");
    }
}

#[tokio::test]
async fn a_server_leaves_a_file_at_its_path_that_is_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, b"kept").unwrap();
    let address = format!("unix:{}", path.display());
    let bind = || Server::bind(&*address, Hub::default(), ServerOptions::new(), options());
    assert!(matches!(bind().await, Err(ChannelError::Down { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    // The socket of a server that was killed is replaced.
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(bind().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_payloads_are_not_printed() {
    let server = Http::start("").await.unwrap();
    let channel = server.channel(options()).await;
    let wrong =
        http::connect(&server.url(), HttpOptions::new().token("wrong secret"), options()).unwrap();
    let refused = wrong.fetch(&name("w")).await.unwrap_err();
    assert!(matches!(refused, ChannelError::Unauthorized { .. }), "{refused:?}");
    let with_password =
        http::connect("http://user:hunter2@127.0.0.1/", HttpOptions::new(), options());
    let with_password = with_password.unwrap_err();
    let options =
        (HttpOptions::new().token(TOKEN), RouterOptions::new(Exposure::ThisHost).token(TOKEN));
    let text = format!(
        "{channel:?} {wrong:?} {refused:?} {refused} {with_password:?} {with_password} {options:?} {:?}",
        entry("w", 1, b"a secret payload")
    );
    for secret in [TOKEN, "wrong secret", "hunter2", "secret payload"] {
        assert!(!text.contains(secret), "{text}");
    }
}
