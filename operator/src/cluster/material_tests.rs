//! What becomes of certificates when their authority is lost. Times are in days after the fleet began.

use super::*;
use crate::cluster::ClusterAddresses;
use crate::plan::{FleetFacts, plan};
use crate::validate::from_yaml;

const FILE: &str = "
apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata: {name: f}
spec:
  regions: [{name: a, nats: {replicas: 3, storage: 4Gi}}]
  log: {maxBytesPerRegion: 512Mi}
";
const TERMS: CertificateTerms = CertificateTerms {
    lifetime: days(365),
    renew_after: days(240),
};

const fn days(number: u64) -> Duration {
    Duration::from_secs(number * 86_400)
}

fn day(number: u64) -> SystemTime {
    UNIX_EPOCH + days(20_000 + number)
}

fn region() -> RegionPlan {
    let fleet = from_yaml(FILE).unwrap();
    let facts = FleetFacts::stand_in(fleet.regions.iter().map(|region| &region.name));
    let addresses = ClusterAddresses::new(Names::new("f", "chat"), BTreeMap::new());
    let mut regions = plan(&fleet, &facts, &addresses).unwrap().regions;
    regions.remove(0)
}

fn signer(at: u64, former: &str) -> Signer {
    let authority = Authority::generate("region a").unwrap();
    Signer {
        secret: "f-a-authority".to_owned(),
        certificate: authority.certificate_pem(day(at)).unwrap(),
        authority,
        former: former.to_owned(),
        replaced_at: (!former.is_empty()).then(|| seconds(day(at))),
    }
}

type Notes = BTreeMap<String, IssuedNote>;

fn wanted(own: &Signer, held: Option<&Held>, at: u64) -> (SecretText, Notes) {
    let region = region();
    let issuing = Issuing {
        names: &Names::new("f", "chat"),
        region: &region,
        role: Role::Nats,
        own,
        gateways: None,
        terms: TERMS,
        now: day(at),
    };
    issuing.wanted(held).unwrap()
}

fn held((text, notes): (SecretText, Notes)) -> Held {
    let mut held = Held::default();
    held.text = text;
    let notes = serde_json::to_string(&notes).unwrap();
    held.notes = [(ISSUED.to_owned(), notes)].into();
    held
}

fn certificates_of(text: &SecretText) -> Vec<&str> {
    let keys = text
        .iter()
        .filter(|(key, _)| key.as_str() != "region-ca.crt");
    keys.map(|(_, value)| value.as_str()).collect()
}

#[test]
fn a_lost_authority_changes_no_certificate_and_both_are_trusted() {
    let first = signer(0, "");
    let before = held(wanted(&first, None, 0));
    let second = signer(10, &first.certificate);
    let (text, notes) = wanted(&second, Some(&before), 10);
    assert_eq!(certificates_of(&text), certificates_of(&before.text));
    let trusted: Vec<&str> = certificates_in(&text["region-ca.crt"]).collect();
    assert_eq!(trusted, [second.certificate.as_str(), &first.certificate]);
    let old = fingerprint(&first.certificate);
    assert_eq!(notes.len(), 3);
    assert!(notes.values().all(|note| note.authority == old));
}

#[test]
fn the_new_authority_signs_when_certificates_are_renewed_but_not_before_it_is_trusted() {
    let first = signer(0, "");
    let before = held(wanted(&first, None, 0));
    let signs = |second: &Signer, at| {
        let (_, notes) = wanted(second, Some(&before), at);
        let new = fingerprint(&second.certificate);
        notes.values().all(|note| note.authority == new)
    };
    let early = signer(10, &first.certificate);
    assert!(!signs(&early, 239));
    assert!(signs(&early, 241));
    let late = signer(250, &first.certificate);
    assert!(!signs(&late, 250), "nobody trusts it yet");
    assert!(signs(&late, 252));
    let too_late = signer(366, &first.certificate);
    assert!(signs(&too_late, 366), "the old ones ended");
}

#[test]
fn a_certificate_of_an_authority_that_nobody_knows_is_replaced() {
    let before = held(wanted(&signer(0, ""), None, 0));
    let second = signer(10, "");
    let (text, _) = wanted(&second, Some(&before), 10);
    assert_ne!(certificates_of(&text), certificates_of(&before.text));
    assert_eq!(text["region-ca.crt"].as_str(), second.certificate);
}

#[test]
fn an_authority_that_is_lost_twice_leaves_all_of_them_trusted() {
    let first = signer(0, "");
    let second = signer(10, &first.certificate);
    let third = signer(20, &second.trusted());
    for known in [&first, &second] {
        assert!(third.signed_before(&fingerprint(&known.certificate)));
    }
    assert!(!third.signed_before(&fingerprint(&third.certificate)));
    assert_eq!(certificates_in(&third.trusted()).count(), 3);
}
