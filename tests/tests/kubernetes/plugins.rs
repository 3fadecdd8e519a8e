//! Policy programs come to the relays in an image of one's own.

use std::fs;

use nightjar_tests::event::Person;
use nightjar_tests::kubernetes::cluster::machine;
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::turn;
use nightjar_tests::programs::{fresh_dir, program};
use nightjar_tests::socket::Socket;
use serde_json::json;

/// Tag of the relays' image with the program in it.
const TAG: &str = "members";
/// As `docs/how-to/plugins.md` has it.
const DOCKERFILE: &str = "FROM localhost/nightjar/relay:dev
COPY --chmod=0755 members /policy/members
COPY members.txt /policy/members.txt
";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_program_in_a_derived_image_decides_who_publishes_and_who_reads() {
    let Some(cluster) = machine("policy plugins in a derived image") else {
        return;
    };
    let _turn = turn::beside().await;
    let (member, stranger) = (Person::new(), Person::new());
    let folder = fresh_dir("derived");
    fs::write(folder.join("Dockerfile"), DOCKERFILE).expect("written");
    fs::write(folder.join("members.txt"), member.pubkey()).expect("written");
    fs::copy(program("examples/members"), folder.join("members")).expect("copied");
    cluster.derive(TAG, &folder);

    let policy = json!({"command": ["/policy/members", "/policy/members.txt"], "watch": ["/policy/members.txt"]});
    let mut spec = FleetSpec::new(&["a"], 1);
    TAG.clone_into(&mut spec.relay_tag);
    spec.more = json!({"relay": {"plugins": {"write": policy, "read": policy}}});
    let fleet = Fleet::start(cluster, "plugins", &spec).await;
    let url = fleet.url(&spec, "a");
    let notes = [json!({"kinds": [1]})];

    let other = Socket::open(&url).await;
    let asked = Err("auth-required: this relay is for its members".to_owned());
    assert_eq!(other.query(&notes).await, asked);
    other.authenticate(&stranger).await;
    let refused = "restricted: this relay is for its members".to_owned();
    assert_eq!(other.query(&notes).await, Err(refused.clone()));
    let published = other.publish(&stranger.note("hello")).await;
    assert_eq!(published, Ok((false, refused)));

    let socket = Socket::open_as(&url, &member).await;
    let note = member.note("hello");
    socket.publish_ok(&note).await;
    assert_eq!(socket.ids(notes[0].clone()).await, [note.id]);
    for pod in fleet.pods() {
        assert_eq!(pod.restarts, 0, "{} was started again", pod.name);
    }
}
