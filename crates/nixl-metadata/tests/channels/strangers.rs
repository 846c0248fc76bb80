//! Servers and clients that are slow, full, damaged, or lie.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_metadata::channel::http::HttpOptions;
use nixl_metadata::channel::tcp::{Server, ServerOptions, TcpOptions};
use nixl_metadata::channel::{
    Channel, ChannelError, ChannelOptions, Hub, HubLimits, Incarnation, etcd, http, tcp,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::suite::{entry, name, options, soon};

/// A server that does the same with each connection.
async fn fake<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that reads a call and writes these bytes.
async fn says(bytes: &'static [u8]) -> String {
    fake(move |mut stream| async move {
        let mut call = [0; 4096];
        let _call = stream.read(&mut call).await;
        let _gone = stream.write_all(bytes).await;
        // The client decides when it has enough.
        let _end = stream.read(&mut call).await;
    })
    .await
}

/// A server that goes on writing a piece after a head.
async fn floods(head: &'static [u8], piece: &'static [u8]) -> String {
    fake(move |mut stream| async move {
        let mut call = [0; 4096];
        let _call = stream.read(&mut call).await;
        let _gone = stream.write_all(head).await;
        while stream.write_all(piece).await.is_ok() {}
    })
    .await
}

fn hasty() -> ChannelOptions {
    options().call_time(Duration::from_millis(400))
}

fn clients(address: &str, options: &ChannelOptions) -> [Arc<dyn Channel>; 3] {
    let url = format!("http://{address}");
    [
        tcp::connect(address, TcpOptions::new(), options.clone()).unwrap(),
        http::connect(&url, HttpOptions::new(), options.clone()).unwrap(),
        etcd::connect(&url, etcd::EtcdOptions::new(), options.clone()).unwrap(),
    ]
}

#[tokio::test]
async fn a_slow_server_times_out() {
    let address = fake(|stream| async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
    })
    .await;
    for client in clients(&address, &hasty()) {
        let late = soon("a deadline", client.fetch(&name("w"))).await;
        assert!(matches!(late, Err(ChannelError::TimedOut { .. })), "{late:?}");
        let late = soon("a deadline", client.publish(entry("w", 1, b"x"))).await;
        assert!(matches!(late, Err(ChannelError::TimedOut { .. })), "{late:?}");
        let within = Duration::from_millis(300);
        let (me, w) = (name("a"), name("w"));
        let late = client.request(&me, &w, "x".into(), within);
        let late = soon("a deadline", late).await;
        assert!(matches!(late, Err(ChannelError::TimedOut { .. })), "{late:?}");
        assert!(soon("a deadline", client.watch(&name("w"))).await.is_err());
        assert!(soon("a deadline", client.serve(&name("w"), Incarnation::new(1))).await.is_err());
    }
}

/// A connection that hangs leaves time for another, however long a call may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_hangs_is_repeated_before_the_entry_ends() {
    let server = Server::bind("127.0.0.1:0", Hub::default(), ServerOptions::new(), options()).await;
    let server = server.unwrap();
    let (address, calls) = (server.address().to_string(), tokio::sync::watch::Sender::new(0));
    let relay = {
        let (address, calls) = (address.clone(), calls.clone());
        fake(move |mut client| {
            let (address, calls) = (address.clone(), calls.clone());
            async move {
                calls.send_modify(|calls| *calls += 1);
                if *calls.borrow() == 2 {
                    std::future::pending::<()>().await;
                }
                let mut real = TcpStream::connect(address).await.unwrap();
                let _gone = tokio::io::copy_bidirectional(&mut client, &mut real).await;
            }
        })
        .await
    };
    let patient = options().call_time(Duration::from_secs(600));
    let owner = tcp::connect(&*relay, TcpOptions::new(), patient).unwrap();
    let published = owner.publish(entry("w", 1, b"x")).await.unwrap();
    soon("another renewal", calls.subscribe().wait_for(|calls| *calls > 2)).await.unwrap();
    drop(published);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for client in clients(&address, &hasty()) {
        let down = client.fetch(&name("w")).await;
        assert!(matches!(down, Err(ChannelError::Down { .. })), "{down:?}");
    }
}

#[tokio::test]
async fn a_message_of_a_gigabyte_is_refused_by_its_head() {
    let framed = says(&[0, 0, 0, 0x40]).await;
    let [client, ..] = clients(&framed, &options());
    let refused = client.fetch(&name("w")).await;
    assert!(
        matches!(refused, Err(ChannelError::TooLarge { len, .. }) if len == 1 << 30),
        "{refused:?}"
    );
    let announced = says(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").await;
    let [_, http, etcd] = clients(&announced, &options());
    for client in [http, etcd] {
        let refused = client.fetch(&name("w")).await;
        let is_len = matches!(refused, Err(ChannelError::TooLarge { len, .. }) if len == 1 << 30);
        assert!(is_len, "{refused:?}");
    }
}

#[tokio::test]
async fn a_message_without_an_end_is_read_up_to_the_limit() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    // No line and no frame ends in it.
    let address = floods(
        head,
        b"400\r\n\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\
        7777777777777777777777777777777777777777777777777777777777777777\r\n",
    )
    .await;
    let [_, http, etcd] = clients(&address, &options());
    for client in [http, etcd] {
        let refused = soon("a refusal", client.fetch(&name("w"))).await;
        assert!(matches!(refused, Err(ChannelError::TooLarge { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn answers_of_other_protocols_are_malformed() {
    let [client, ..] = clients(&says(&[3, 0, 0, 0, 9, 9, 9]).await, &options());
    let malformed = client.fetch(&name("w")).await;
    assert!(matches!(malformed, Err(ChannelError::Malformed { .. })), "{malformed:?}");
    let address = says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let [_, http, etcd] = clients(&address, &options());
    for client in [http, etcd] {
        let malformed = client.fetch(&name("w")).await;
        assert!(matches!(malformed, Err(ChannelError::Malformed { .. })), "{malformed:?}");
    }
    let address = says(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    let [_, http, etcd] = clients(&address, &options());
    for client in [http, etcd] {
        let refused = client.fetch(&name("w")).await;
        assert!(matches!(refused, Err(ChannelError::Refused { .. })), "{refused:?}");
    }
}

/// A relay that answers each call as the first was.
async fn parrot(server: String) -> String {
    let first = Arc::new(Mutex::new(None::<Vec<u8>>));
    fake(move |mut client| {
        let (server, first) = (server.clone(), Arc::clone(&first));
        async move {
            let mut call = vec![0; 4096];
            let len = client.read(&mut call).await.unwrap_or(0);
            let before = first.lock().unwrap().clone();
            let answer = match before {
                Some(answer) => answer,
                None => {
                    let mut real = TcpStream::connect(server).await.unwrap();
                    real.write_all(&call[..len]).await.unwrap();
                    let mut answer = Vec::new();
                    real.read_to_end(&mut answer).await.unwrap();
                    *first.lock().unwrap() = Some(answer.clone());
                    answer
                }
            };
            let _gone = client.write_all(&answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_entry_of_another_worker_is_refused() {
    let hub = Hub::default();
    let _published = hub.channel(options()).publish(entry("a", 1, b"of a")).await.unwrap();
    let server = Server::bind("127.0.0.1:0", hub, ServerOptions::new(), options()).await.unwrap();
    let relay = parrot(server.address().to_string()).await;
    let client = tcp::connect(&*relay, TcpOptions::new(), options()).unwrap();
    assert_eq!(client.fetch(&name("a")).await.unwrap(), entry("a", 1, b"of a"));
    let wrong = client.fetch(&name("b")).await;
    let is_wrong = matches!(&wrong, Err(ChannelError::WrongEntry { wanted, found })
        if *wanted == name("b") && *found == name("a"));
    assert!(is_wrong, "{wrong:?}");
}

#[tokio::test]
async fn a_full_hub_and_a_full_server_say_so() {
    let hub = Hub::new(HubLimits::new().entries(1).inboxes(1).bytes(100));
    let channel = hub.channel(options());
    let first = channel.publish(entry("a", 1, b"x")).await.unwrap();
    let full = channel.publish(entry("b", 1, b"x")).await;
    assert!(matches!(full, Err(ChannelError::Full { .. })), "{full:?}");
    let long = channel.publish(entry("a", 1, &[0; 101])).await;
    assert!(matches!(long, Err(ChannelError::Full { .. })), "{long:?}");
    let _inbox = channel.serve(&name("a"), Incarnation::new(1)).await.unwrap();
    let short = hub.channel(hasty()).serve(&name("b"), Incarnation::new(1)).await;
    assert!(matches!(short, Err(ChannelError::Full { .. })), "{short:?}");
    first.withdraw().await;
    channel.publish(entry("b", 1, b"x")).await.unwrap();
    let none = ServerOptions::new().connections(0);
    let server = Server::bind("127.0.0.1:0", hub, none, options()).await.unwrap();
    let client = tcp::connect(server.address().to_string().as_str(), TcpOptions::new(), options());
    let full = client.unwrap().fetch(&name("a")).await;
    assert!(matches!(full, Err(ChannelError::Full { .. } | ChannelError::Lost { .. })), "{full:?}");
}

#[tokio::test]
async fn requests_that_wait_are_bounded_in_bytes_until_their_senders_give_up() {
    let channel = Hub::new(HubLimits::new().request_bytes(1 << 20)).channel(options());
    let (me, a, b) = (name("me"), name("a"), name("b"));
    let mut inbox = channel.serve(&a, Incarnation::new(1)).await.unwrap();
    let _silent = channel.serve(&b, Incarnation::new(1)).await.unwrap();
    let ask = |to, first: u8, within| {
        let mut payload = vec![0; 400 << 10];
        payload[0] = first;
        channel.request(&me, to, payload.into(), Duration::from_millis(within))
    };
    let (first, second, third) = tokio::join!(ask(&a, 1, 300), ask(&b, 2, 300), ask(&a, 3, 30_000));
    assert!(matches!(third, Err(ChannelError::Full { .. })), "{third:?}");
    for late in [first, second] {
        assert!(matches!(late, Err(ChannelError::TimedOut { .. })), "{late:?}");
    }
    // Their bytes are free again, and no worker executes them.
    let (fourth, fifth, ()) = tokio::join!(ask(&b, 4, 300), ask(&a, 5, 30_000), async {
        let request = inbox.next().await.unwrap();
        assert_eq!(request.payload()[0], 5);
        request.reply("done").unwrap();
    });
    assert!(matches!(fourth, Err(ChannelError::TimedOut { .. })), "{fourth:?}");
    assert_eq!(&fifth.unwrap()[..], b"done");
}

#[tokio::test]
async fn an_entry_may_live_for_ever() {
    let hub = Hub::new(HubLimits::new().life_time(Duration::MAX));
    let channel = hub.channel(options().life_time(Duration::MAX));
    let _published = channel.publish(entry("w", 1, b"x")).await.unwrap();
    assert_eq!(channel.fetch(&name("w")).await.unwrap(), entry("w", 1, b"x"));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_place() {
    let hub = Hub::default();
    let two = ServerOptions::new().connections(2);
    let server = Server::bind("127.0.0.1:0", hub.clone(), two, options()).await.unwrap();
    let client = tcp::connect(&*server.address().to_string(), TcpOptions::new(), options());
    let (client, me, w) = (client.unwrap(), name("me"), name("w"));
    let mut inbox = hub.channel(options()).serve(&w, Incarnation::new(1)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(tokio::select! {
            reply = client.request(&me, &w, "x".into(), Duration::from_secs(3600)) => panic!("{reply:?}"),
            request = inbox.next() => request.unwrap(),
        });
    }
    soon("a place", async {
        while matches!(
            client.fetch(&w).await,
            Err(ChannelError::Full { .. } | ChannelError::Lost { .. })
        ) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn clients_that_lie_harm_no_others() {
    let hub = Hub::default();
    let server = Server::bind("127.0.0.1:0", hub, ServerOptions::new(), options()).await.unwrap();
    let address = server.address().to_string();
    for bytes in [&(1u32 << 30).to_le_bytes()[..], &[1, 0, 0, 0, 7], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = TcpStream::connect(&address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut said = Vec::new();
        let _reset = soon("the end", client.read_to_end(&mut said)).await;
        assert!(said.len() < 4096);
    }
    let client = tcp::connect(&*address, TcpOptions::new(), options()).unwrap();
    let _published = client.publish(entry("w", 1, b"x")).await.unwrap();
    assert_eq!(client.fetch(&name("w")).await.unwrap(), entry("w", 1, b"x"));
}

#[tokio::test]
async fn numbers_beyond_what_a_server_counts_are_the_most() {
    let most = options().inbox_depth(usize::MAX).life_time(Duration::MAX);
    let limits = HubLimits::new().life_time(Duration::MAX).request_bytes(usize::MAX);
    let server = ServerOptions::new().connections(usize::MAX);
    let server = Server::bind("127.0.0.1:0", Hub::new(limits), server, most.clone()).await.unwrap();
    let address = server.address().to_string();
    let channel = tcp::connect(&*address, TcpOptions::new(), most).unwrap();
    let wanted = entry("w", 1, b"x");
    let _published = channel.publish(wanted.clone()).await.unwrap();
    let mut inbox = channel.serve(wanted.name(), wanted.incarnation()).await.unwrap();
    let answers = async {
        let request = soon("a request", inbox.next()).await.unwrap();
        request.reply("y").unwrap();
    };
    let me = name("me");
    let request = channel.request(&me, wanted.name(), "?".into(), Duration::MAX);
    let (answer, ()) = tokio::join!(request, answers);
    assert_eq!(answer.unwrap(), "y");
    assert_eq!(channel.fetch(wanted.name()).await.unwrap(), wanted);
}
