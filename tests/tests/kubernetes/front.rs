//! What clients meet at the door of a fleet: its own TLS, and who may come in, publish and manage, through the Service of a region.

use std::time::Instant;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use nightjar_tests::event::{Person, now};
use nightjar_tests::kubernetes::cluster::{Cluster, cluster, list, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec, Pod};
use nightjar_tests::kubernetes::{limits, turn};
use nightjar_tests::report::measured;
use nightjar_tests::socket::Socket;
use nightjar_tests::tls::{Authority, Pair};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The Secret with the certificate.
const SECRET: &str = "front-tls";
/// Connections that one client of a proxy may have.
const PER_ADDRESS: usize = 8;
/// A web page that may connect.
const PAGE: &str = "https://chat.example.org";

/// A fleet of one relay behind TLS of its own, and the people around it.
struct Front {
    fleet: Fleet,
    spec: FleetSpec,
    /// `host:port` of the region's Service.
    server: String,
    authority: Authority,
    admin: Person,
    member: Person,
    guest: Person,
}

impl Front {
    /// Its namespace, and no fleet yet.
    fn new(cluster: &'static Cluster, test: &str) -> Front {
        let mut spec = FleetSpec::new(&["a"], 1);
        let server = format!("{}:{}", cluster.address("a"), spec.regions[0].port);
        let (admin, member) = (Person::new(), Person::new());
        let mut regions = spec.spec(cluster)["regions"].clone();
        regions[0]["publicURL"] = json!(format!("wss://{server}"));
        spec.more = json!({"regions": regions, "relay": {
            "tls": {"secretName": SECRET},
            // Wherever a Service hands a connection on from.
            "trustedProxies": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"],
            "allowedOrigins": [PAGE],
            "limits": {"connectionsPerAddress": PER_ADDRESS},
            "management": {"admins": [admin.pubkey()]},
            "admission": {"write": "AllowedKeys", "allowPubkeys": [member.pubkey()], "authRequired": "Writes"},
            // Not in the image: the relay serves all the same.
            "plugins": {"write": {"command": ["/policy/missing"], "onFailure": "Accept"}},
        }});
        Front {
            fleet: Fleet::namespace(cluster, test),
            spec,
            server,
            authority: Authority::new(),
            admin,
            member,
            guest: Person::new(),
        }
    }

    /// A new certificate for the address of the Service.
    fn issue(&self) -> Pair {
        let (host, _) = self.server.rsplit_once(':').expect("host and port");
        self.authority.issue(&[host])
    }

    /// Makes or replaces the Secret, as cert-manager does.
    fn put(&self, certificate: &str, key: &str) {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": SECRET, "namespace": self.fleet.namespace},
            "stringData": {"tls.crt": certificate, "tls.key": key}});
        self.fleet.apply_object(&secret).expect("the Secret");
    }

    async fn try_open(&self, headers: &[(&'static str, &str)]) -> Result<Socket, String> {
        let url = format!("wss://{}", self.server);
        Socket::try_open_with(&url, Some(self.authority.trust()), headers).await
    }

    async fn open(&self) -> Socket {
        self.try_open(&[]).await.expect("a connection over TLS")
    }

    async fn open_as(&self, person: &Person) -> Socket {
        let socket = self.open().await;
        socket.authenticate(person).await;
        socket
    }

    async fn shown(&self) -> Result<Vec<u8>, String> {
        self.authority.shown(&self.server).await
    }

    /// A management call: status and body.
    async fn call(&self, caller: &Person, method: &str, params: &Value) -> (u16, Value) {
        let body = json!({"method": method, "params": params}).to_string();
        let url = format!("https://{}/", self.server);
        let payload = hex::encode(Sha256::digest(&body));
        let tags: [&[&str]; 3] = [&["u", &url], &["method", "POST"], &["payload", &payload]];
        let signed = STANDARD.encode(caller.event(27_235, now(), &tags, "").json);
        let request = Request::post("/")
            .header("content-type", "application/nostr+json+rpc")
            .header("authorization", format!("Nostr {signed}"))
            .body(Body::from(body))
            .expect("a request");
        let answer = self.authority.ask(&self.server, request).await;
        let answer = answer.expect("an answer");
        let body = serde_json::from_str(&answer.body);
        (answer.status, body.unwrap_or_else(|_| json!(answer.body)))
    }

    /// The value of one metric of the relay.
    fn metric(&self, name: &str) -> Result<String, String> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}-a-relay-0:9090/proxy/metrics",
            self.fleet.namespace, self.fleet.name
        );
        let all = self.fleet.try_kubectl(&["get", "--raw", &path])?;
        let line = all
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::to_owned)
            .ok_or_else(|| format!("there is no {name}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_with_tls_of_its_own_lets_in_whom_it_shall_and_takes_a_new_certificate() {
    let Some(cluster) = cluster("TLS by the relays, management, admission") else {
        return;
    };
    let _turn = turn::beside().await;
    let front = Front::new(cluster, "front");
    front.fleet.apply(&front.spec);
    let (place, remedy) = front.fleet.wait_waiting("TlsSecretMissing").await;
    assert_eq!(place, format!("secret/{SECRET}"));
    assert!(remedy.contains("spec.relay.tls.secretName"), "{remedy}");
    let first = front.issue();
    front.put(&first.certificate, &first.key);
    front.fleet.wait_calm(limits::FLEET_READY).await;
    let status = front.fleet.object().expect("the fleet")["status"].clone();
    let url = &list(&status["regions"])[0]["url"];
    let inside = format!("wss://fleet-a.{}.svc:80", front.fleet.namespace);
    assert_eq!(*url, json!(inside));
    assert_eq!(front.shown().await, Ok(first.der.clone()));
    let pods = front.fleet.pods();

    the_door(&front).await;
    let member = front.open_as(&front.member).await;
    let guest = front.open_as(&front.guest).await;
    members_publish(&front, &member, &guest).await;
    an_administrator_decides(&front, &member, &guest).await;

    let mut changed = front.spec.clone();
    changed.more["relay"]["management"]["admins"] = json!([front.member.pubkey()]);
    front.fleet.apply(&changed);
    certificates_come(&front, &first).await;
    another_manages(&front).await;
    for old in [&member, &guest] {
        old.settle().await;
    }
    member
        .publish_ok(&front.member.note("over the old certificate"))
        .await;
    front.fleet.wait_calm(limits::HEALED).await;
    assert_eq!(pods, front.fleet.pods(), "no pod was touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_that_turns_tls_on_serves_as_before_until_its_secret_is_there() {
    let Some(cluster) = cluster("TLS turned on") else {
        return;
    };
    let _turn = turn::beside().await;
    let front = Front::new(cluster, "turns-tls");
    let plain = FleetSpec {
        more: json!({}),
        ..front.spec.clone()
    };
    let plain_url = front.fleet.url(&plain, "a");
    front.fleet.apply(&plain);
    front.fleet.wait_calm(limits::FLEET_READY).await;
    let pods = front.fleet.pods();

    front.fleet.apply(&front.spec);
    front.fleet.wait_waiting("TlsSecretMissing").await;
    front
        .fleet
        .wait_condition("Degraded", "True", "TlsSecretMissing")
        .await;
    assert_eq!(
        pods,
        front.fleet.pods(),
        "no pod goes that would not come back"
    );
    Socket::open(&plain_url).await.settle().await;

    let pair = front.issue();
    front.put(&pair.certificate, &pair.key);
    front.fleet.wait_calm(limits::ROLLOUT).await;
    assert_eq!(front.shown().await, Ok(pair.der));
    assert!(Socket::try_open(&plain_url).await.is_err(), "no more ws://");
    let others = |pods: Vec<Pod>| pods.into_iter().filter(|pod| pod.component != "relay");
    assert!(
        others(pods).eq(others(front.fleet.pods())),
        "the relay alone was restarted"
    );
}

/// Who gets in at all: over TLS, from the right page, and not too often.
async fn the_door(front: &Front) {
    let plain = Socket::try_open(&format!("ws://{}", front.server)).await;
    assert!(plain.is_err(), "plain ws:// is refused");
    let foreign = Authority::new().shown(&front.server).await;
    assert!(foreign.is_err(), "nobody else's certificate is shown");

    let request = Request::get("/").header("accept", "application/nostr+json");
    let request = request.body(Body::empty()).expect("a request");
    let document = front.authority.ask(&front.server, request).await;
    let document = document.expect("NIP-11 over https");
    assert_eq!(document.status, 200, "{}", document.body);
    let document: Value = serde_json::from_str(&document.body).expect("JSON");
    for nip in [11, 17, 42, 86, 98] {
        assert!(
            list(&document["supported_nips"]).contains(&json!(nip)),
            "NIP-{nip}: {document}"
        );
    }
    assert_eq!(document["limitation"]["restricted_writes"], true);

    let other = front.try_open(&[("origin", "https://example.net")]).await;
    let refused = other.err().unwrap_or_default();
    assert!(refused.contains("403"), "another page: {refused}");
    // One client behind the proxy: what it claims of itself stands first, and does not count.
    let mut same = Vec::new();
    for claimed in 0..PER_ADDRESS {
        let from = format!("192.0.2.{claimed}, 203.0.113.7");
        let headers = [("origin", PAGE), ("x-forwarded-for", from.as_str())];
        same.push(front.try_open(&headers).await.expect("a page that may"));
    }
    let one_more = front.try_open(&[("x-forwarded-for", "203.0.113.7")]).await;
    let refused = one_more.err().unwrap_or_default();
    assert!(
        refused.contains("429"),
        "one connection too many: {refused}"
    );
    let next = front.try_open(&[("x-forwarded-for", "203.0.113.8")]).await;
    next.expect("another client behind the same proxy");
}

/// Keys on the list publish, once they have authenticated at the public URL; private messages arrive.
async fn members_publish(front: &Front, member: &Socket, guest: &Socket) {
    let note = front.member.note("hello");
    let (taken, why) = front.open().await.publish(&note).await.expect("an answer");
    assert!(!taken && why.starts_with("auth-required: "), "{why}");
    member.publish_ok(&note).await;
    assert_eq!(guest.ids(json!({"kinds": [1]})).await, [note.id]);
    let refused = guest.publish(&front.guest.note("me too")).await;
    let (taken, why) = refused.expect("an answer");
    assert!(!taken && why.starts_with("restricted: "), "{why}");

    let wrap = front.member.message(&front.guest, "for you: żółw");
    member.publish_ok(&wrap).await;
    let mine = json!({"kinds": [1059], "#p": [front.guest.pubkey()]});
    let wraps = guest.query(&[mine]).await.expect("an answer");
    let texts: Vec<String> = wraps
        .iter()
        .map(|wrap| front.guest.open(&wrap.to_string()))
        .collect();
    assert_eq!(texts, ["for you: żółw"]);
    // Everything published was asked of a program that is not there, and of nobody else.
    let running = front.metric(r#"nj_plugin_running{plugin="write"}"#);
    assert_eq!(running.as_deref(), Ok("0"));
}

/// Signed calls over https let a key in, and put it out again.
async fn an_administrator_decides(front: &Front, member: &Socket, guest: &Socket) {
    let key = json!([front.guest.pubkey()]);
    let (status, refused) = front.call(&front.member, "allowpubkey", &key).await;
    assert_eq!(status, 403, "a member is no administrator: {refused}");
    let done = (200, json!({"result": true}));
    assert_eq!(front.call(&front.admin, "allowpubkey", &key).await, done);
    let welcome = front.guest.note("thank you");
    guest.publish_ok(&welcome).await;
    let by_guest = json!({"authors": [front.guest.pubkey()]});
    assert_eq!(member.ids(by_guest.clone()).await, [welcome.id]);

    let ban = json!([front.guest.pubkey(), "spam"]);
    until("the ban", limits::TOLD, async || {
        // Two opposite calls in one second: the other is to be signed again.
        match front.call(&front.admin, "banpubkey", &ban).await {
            (409, refused) => Err(refused.to_string()),
            answer => {
                assert_eq!(answer, done);
                Ok(())
            }
        }
    })
    .await;
    let refused = guest.publish(&front.guest.note("spam")).await;
    let banned = (false, "blocked: this key is banned here".to_owned());
    assert_eq!(refused, Ok(banned));
    assert_eq!(member.ids(by_guest).await, Vec::<String>::new());
}

/// The member was named administrator in place of the one before.
async fn another_manages(front: &Front) {
    let all = json!([]);
    until(
        "the new administrator",
        limits::MOUNTED,
        async || match front.call(&front.member, "listbannedpubkeys", &all).await {
            (200, listed) => Ok(listed),
            refused => Err(format!("{refused:?}")),
        },
    )
    .await;
    let (status, refused) = front.call(&front.admin, "listbannedpubkeys", &all).await;
    assert_eq!(status, 403, "the old one is none any more: {refused}");
}

/// A Secret that does not fit is told and not taken; a renewed one is served.
async fn certificates_come(front: &Front, first: &Pair) {
    let renewed = front.issue();
    front.put(&renewed.certificate, &first.key);
    let (place, remedy) = front.fleet.wait_waiting("TlsSecretUnusable").await;
    assert_eq!(place, format!("secret/{SECRET}"));
    assert!(
        remedy.contains("tls.key is not the key of tls.crt"),
        "{remedy}"
    );
    front
        .fleet
        .wait_condition("Degraded", "True", "TlsSecretUnusable")
        .await;
    until(
        "the relay has met the Secret",
        limits::MOUNTED,
        async || {
            let failures = front.metric("nj_tls_certificate_reload_failures_total")?;
            if failures == "0" {
                Err("it has not".to_owned())
            } else {
                Ok(())
            }
        },
    )
    .await;
    let shown = front.shown().await;
    assert_eq!(shown.as_ref(), Ok(&first.der), "a bad one is not taken");

    front.put(&renewed.certificate, &renewed.key);
    let put = Instant::now();
    until("the new certificate", limits::MOUNTED, async || {
        if front.shown().await? == renewed.der {
            Ok(())
        } else {
            Err("still the old one".to_owned())
        }
    })
    .await;
    measured(&format!(
        "Kubernetes: a renewed certificate served {:.1} s after its Secret was replaced",
        put.elapsed().as_secs_f64()
    ));
    assert!(
        front
            .open()
            .await
            .query(&[json!({"limit": 1})])
            .await
            .is_ok()
    );
}
