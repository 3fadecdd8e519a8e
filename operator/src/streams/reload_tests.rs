//! What a real server takes over when it is told to: a new user of the operator, and a renewed certificate.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Links, Login, StreamError};
use crate::local::ports::PortChooser;
use crate::pki::{Authority, UserKey};
use crate::plan::Credential;

struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let mut chooser = PortChooser::new(HashSet::new());
    std::array::from_fn(|_| chooser.choose().unwrap())
}

fn configure(file: &Path, client: u16, route: u16, other: u16, user: &UserKey) {
    let text = format!(
        "server_name: s{client}\nlisten: \"127.0.0.1:{client}\"\ncluster {{ name: c, listen: \"127.0.0.1:{route}\", routes: [\"nats-route://127.0.0.1:{other}\"] }}\nsystem_account: S\naccounts {{ S {{ users: [{{nkey: \"{}\"}}] }} }}\n",
        user.public()
    );
    std::fs::write(file, text).unwrap();
}

fn start(file: &Path, port: u16) -> Server {
    let program = std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into());
    let mut command = Command::new(program);
    command.arg("--config").arg(file);
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    Server {
        child,
        url: format!("nats://127.0.0.1:{port}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_that_knows_the_new_user_is_enough_to_have_the_others_load_it() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, route_one, route_two] = free_ports();
    let (old, new) = (UserKey::generate(), UserKey::generate());
    let (file_one, file_two) = (dir.path().join("one.conf"), dir.path().join("two.conf"));
    configure(&file_one, one, route_one, route_two, &old);
    configure(&file_two, two, route_two, route_one, &old);
    let mut servers = [start(&file_one, one), start(&file_two, two)];
    let urls = servers.each_ref().map(|server| server.url.clone());
    let region = "a".parse().unwrap();
    let login = |user: &UserKey| Login::plain(&user.seed(Credential::System).unwrap());
    let connect =
        async |urls: &[String], user: &UserKey| Links::connect(&region, urls, &login(user)).await;
    let until_both = async |links: &Links| {
        for _ in 0..100 {
            let seen = links.servers().await;
            if seen.len() == 2 {
                return seen;
            }
        }
        panic!("two servers were not seen")
    };
    let known = async {
        loop {
            if let Ok(links) = connect(&urls, &old).await {
                return links;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until_both(&known.await).await;

    let refused = connect(&urls, &new).await;
    assert!(
        matches!(refused, Err(StreamError::Login { .. })),
        "{refused:?}"
    );

    configure(&file_one, one, route_one, route_two, &new);
    configure(&file_two, two, route_two, route_one, &new);
    let [first, _] = &mut servers;
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    *first = start(&file_one, one);
    let links = async {
        loop {
            match connect(&urls, &new).await {
                Ok(links) => return links,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let links = tokio::time::timeout(Duration::from_secs(20), links)
        .await
        .unwrap();
    let seen = until_both(&links).await;
    let second = seen
        .iter()
        .find(|state| state.server == format!("s{two}"))
        .unwrap();
    let alone = connect(&urls[1..], &new).await;
    assert!(matches!(alone, Err(StreamError::Login { .. })), "{alone:?}");
    links.reload(&second.id).await.unwrap();
    connect(&urls[1..], &new).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_which_certificate_it_has_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let (user, file) = (UserKey::generate(), dir.path().join("one.conf"));
    let authority = Authority::generate("region a").unwrap();
    let now = SystemTime::now();
    let issue = |days: u64| {
        let lifetime = Duration::from_secs(days * 86_400);
        let hosts = ["127.0.0.1".to_owned()];
        let issued = authority
            .issue_for("a-nats-0", &hosts, now, lifetime)
            .unwrap();
        std::fs::write(dir.path().join("crt"), issued.certificate).unwrap();
        std::fs::write(dir.path().join("key"), issued.key.as_bytes()).unwrap();
        let until = now.duration_since(UNIX_EPOCH).unwrap() + lifetime;
        i64::try_from(until.as_secs()).unwrap()
    };
    let first = issue(10);
    let text = format!(
        "server_name: s\nlisten: \"127.0.0.1:{port}\"\ntls {{ cert_file: \"{0}/crt\", key_file: \"{0}/key\" }}\nsystem_account: S\naccounts {{ S {{ users: [{{nkey: \"{1}\"}}] }} }}\n",
        dir.path().display(),
        user.public()
    );
    std::fs::write(&file, text).unwrap();
    let server = start(&file, port);
    let url = server.url.replace("nats://", "tls://");
    let seed = user.seed(Credential::System).unwrap();
    // An authority that took the place of the one that signed, and has its name: both are trusted.
    let successor = Authority::generate("region a").unwrap();
    let trusted = [&successor, &authority].map(|known| known.certificate_pem(now).unwrap());
    let login = Login::tls(&seed, &trusted.concat());
    let region = "a".parse().unwrap();
    let links = async {
        loop {
            match Links::connect(&region, std::slice::from_ref(&url), &login).await {
                Ok(links) => return links,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let links = tokio::time::timeout(Duration::from_secs(20), links)
        .await
        .unwrap();
    let state = links.servers().await.remove(0);
    assert_eq!(state.certificate_until, Some(first));
    let renewed = issue(20);
    links.reload(&state.id).await.unwrap();
    assert_eq!(links.servers().await[0].certificate_until, Some(renewed));
}
