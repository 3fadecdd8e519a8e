//! Keys and certificates of a fleet: reads them, and makes what is missing, once. The keyring is data: it is never made a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nightjar_envelope::{Keyring, RegionName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::addresses::{authority_key, certificate_key, seed_key};
use super::build::restart_hash;
use super::error::ClusterError;
use super::names::Names;
use super::secrets::{Held, Lifetime, SecretStore, SecretText};
use crate::pki::{Authority, UserKey};
use crate::plan::{
    Credential, FleetPlan, Issuer, ProcessPlan, RegionKeys, RegionPlan, Role, SeedForm,
};

/// Annotation of a Secret with certificates: what was issued, to whom, and when.
const ISSUED: &str = "nightjar.dev/issued";
/// Key of the keyring's text in its Secret.
const KEYRING: &str = "keyring.json";
const AUTHORITY_KEY: &str = "ca.key";
const AUTHORITY_CERTIFICATE: &str = "ca.crt";
/// Certificates of authorities whose keys are gone, and which signed what still runs.
const FORMER_CERTIFICATES: &str = "former.crt";
/// Annotation of an authority that was made in the place of one that was lost: when, in seconds of Unix.
const REPLACED_AT: &str = "nightjar.dev/replaced-at";
/// After this time every process trusts a new authority: they are restarted for it one by one.
const TRUSTED_WITHIN: Duration = Duration::from_secs(86_400);

/// The seeds of the operator's own users in a region.
#[derive(Clone)]
pub(super) struct OperatorSeeds {
    /// In the account of the relays.
    pub admin: Zeroizing<String>,
    /// In the system account.
    pub system: Zeroizing<String>,
}

/// Users of a region: public keys for configurations, and the seeds that the operator itself uses.
pub(super) struct RegionUsers {
    /// Public halves.
    pub public: RegionKeys,
    /// What the operator logs in with.
    pub seeds: OperatorSeeds,
}

impl std::fmt::Debug for RegionUsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegionUsers")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The state of the fleet's keyring.
#[derive(Debug)]
pub(super) enum Keys {
    /// It can be used.
    Present(Box<Keyring>),
    /// It is gone although streams were made. Nothing is generated.
    Missing,
}

/// Reads the keyring, or makes the first one if the fleet never had a stream.
pub(super) async fn keyring(
    store: &SecretStore,
    names: &Names,
    data_exists: bool,
) -> Result<Keys, ClusterError> {
    let name = names.keys();
    if let Some(held) = store.get(&name).await? {
        let damaged = |reason: String| ClusterError::Damaged {
            object: format!("secret/{name}"),
            reason,
        };
        let text = held
            .text
            .get(KEYRING)
            .ok_or_else(|| damaged(format!("it has no key {KEYRING}")))?;
        let keyring =
            Keyring::parse(text.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        return Ok(Keys::Present(Box::new(keyring)));
    }
    if data_exists {
        return Ok(Keys::Missing);
    }
    let keyring = Keyring::generate().map_err(|error| ClusterError::Damaged {
        object: format!("secret/{name}"),
        reason: error.to_string(),
    })?;
    let text = [(
        KEYRING.to_owned(),
        Zeroizing::new(keyring.to_json().to_string()),
    )]
    .into();
    store
        .create(&name, Lifetime::Data, &text, BTreeMap::new())
        .await?;
    Ok(Keys::Present(Box::new(keyring)))
}

/// The users of a region; those without a seed are made.
pub(super) async fn users(
    store: &SecretStore,
    names: &Names,
    region: &RegionName,
) -> Result<RegionUsers, ClusterError> {
    let plain = seed_key(SeedForm::Plain);
    let relay = names.user(region, Role::Relay);
    let relay = seeds(store, &relay, &[(plain, Credential::Relay)], None).await?;
    let leaf = names.user(region, Role::Nats);
    let form = Some((seed_key(SeedForm::NatsVariable), SeedForm::NatsVariable));
    let leaf = seeds(store, &leaf, &[(plain, Credential::Leaf)], form).await?;
    let operator = names.operator_users(region);
    let wanted = [("admin", Credential::Admin), ("system", Credential::System)];
    let operator = seeds(store, &operator, &wanted, None).await?;
    Ok(RegionUsers {
        public: RegionKeys {
            relay: relay[0].public(),
            leaf: leaf[0].public(),
            admin: operator[0].public(),
            system: operator[1].public(),
        },
        seeds: OperatorSeeds {
            admin: operator[0].seed(Credential::Admin)?,
            system: operator[1].seed(Credential::System)?,
        },
    })
}

async fn seeds(
    store: &SecretStore,
    secret: &str,
    wanted: &[(&str, Credential)],
    also: Option<(&str, SeedForm)>,
) -> Result<Vec<UserKey>, ClusterError> {
    if let Some(held) = store.get(secret).await? {
        return wanted
            .iter()
            .map(|(key, credential)| {
                let damaged = |reason: &str| ClusterError::Damaged {
                    object: format!("secret/{secret}"),
                    reason: format!("key {key} {reason}; delete the Secret to have a new one made"),
                };
                let text = held.text.get(*key).ok_or_else(|| damaged("is missing"))?;
                UserKey::from_seed(*credential, text).map_err(|_| damaged("is not an nkey seed"))
            })
            .collect();
    }
    let mut text = SecretText::new();
    let mut keys = Vec::new();
    for (key, credential) in wanted {
        let user = UserKey::generate();
        let seed = user.seed(*credential)?;
        if let Some((also, form)) = also {
            text.insert(also.to_owned(), Zeroizing::new(form.text(&seed)));
        }
        text.insert((*key).to_owned(), seed);
        keys.push(user);
    }
    store
        .create(secret, Lifetime::Fleet, &text, BTreeMap::new())
        .await?;
    Ok(keys)
}

/// How long certificates are valid, and when they are made anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct CertificateTerms {
    /// Validity of an issued certificate.
    pub lifetime: Duration,
    /// Age at which it is replaced; less than `lifetime`.
    pub renew_after: Duration,
}

/// Certificates of a fleet.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// What peers of each region trust, PEM: its authority, and those before it that signed what still runs.
    pub authorities: BTreeMap<RegionName, String>,
    /// The authority of each region alone, PEM. Another one means that everything restarts.
    pub current: BTreeMap<RegionName, String>,
    /// By StatefulSet: what of its certificates a running process cannot load again.
    pub fixed: BTreeMap<String, String>,
    /// By server or hub: when the certificate of its region ends that it should have loaded, in seconds of Unix.
    pub until: BTreeMap<String, u64>,
    /// By region and issuer (`region` or `gateway`): when the first certificate ends.
    pub expiry: BTreeMap<(RegionName, &'static str), SystemTime>,
    /// Secrets in which certificates were made or renewed in this pass.
    pub issued: Vec<String>,
    /// Certificates were renewed within the last minutes, so that servers may not have loaded them yet.
    pub fresh: bool,
    /// Secrets of authorities that took the place of others whose certificates are in use, or were a moment ago.
    succeeding: BTreeSet<String>,
}

/// Within this time every pod has the files of a renewed Secret.
const SPREAD_WITHIN: Duration = Duration::from_secs(180);

/// A note of one issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IssuedNote {
    hosts: Vec<String>,
    at: u64,
    until: u64,
    authority: String,
}

/// Reads all certificates of the plan; what is missing, old or of another authority is issued.
pub(super) async fn certificates(
    store: &SecretStore,
    names: &Names,
    plan: &FleetPlan,
    terms: CertificateTerms,
    now: SystemTime,
) -> Result<Certificates, ClusterError> {
    let mut found = Certificates::default();
    let has_hubs = plan.regions.iter().any(|region| !region.hubs.is_empty());
    let gateways = match has_hubs {
        true => {
            let hubs = plan
                .regions
                .iter()
                .map(|region| names.tls(&region.name, Role::Hub));
            let asked = Asked {
                secret: names.gateway_authority(),
                name: "nightjar gateways".to_owned(),
                issuer: Issuer::Gateways,
                served: hubs.collect(),
            };
            Some(asked.ensure(store, now).await?)
        }
        false => None,
    };
    for region in &plan.regions {
        let roles = [Role::Nats, Role::Hub].into_iter();
        let asked = Asked {
            secret: names.authority(&region.name),
            name: format!("nightjar region {}", region.name),
            issuer: Issuer::Region(region.name.clone()),
            served: roles.map(|role| names.tls(&region.name, role)).collect(),
        };
        let own = asked.ensure(store, now).await?;
        let name = region.name.clone();
        found.authorities.insert(name.clone(), own.trusted());
        found.current.insert(name, own.certificate.clone());
        for role in [Role::Nats, Role::Hub] {
            let issuing = Issuing {
                names,
                region,
                role,
                own: &own,
                gateways: gateways.as_ref(),
                terms,
                now,
            };
            issuing.ensure(store, &mut found).await?;
        }
        retire(store, &own, &found).await?;
    }
    if let Some(gateways) = &gateways {
        retire(store, gateways, &found).await?;
    }
    Ok(found)
}

/// Ends the trust in lost authorities when nothing of theirs is left.
async fn retire(
    store: &SecretStore,
    signer: &Signer,
    found: &Certificates,
) -> Result<(), ClusterError> {
    if signer.former.is_empty() || found.succeeding.contains(&signer.secret) {
        return Ok(());
    }
    let Some(held) = store.get(&signer.secret).await? else {
        return Ok(());
    };
    let mut text = held.text.clone();
    text.remove(FORMER_CERTIFICATES);
    let notes = held.notes.clone();
    store.replace(&signer.secret, &held, &text, notes).await
}

/// An authority with its certificate, and those that it took the place of.
struct Signer {
    secret: String,
    authority: Authority,
    certificate: String,
    /// Certificates of lost authorities, PEM.
    former: String,
    replaced_at: Option<u64>,
}

impl Signer {
    /// What peers are to trust.
    fn trusted(&self) -> String {
        format!("{}{}", self.certificate, self.former)
    }

    fn signed_before(&self, fingerprint_of_it: &str) -> bool {
        certificates_in(&self.former).any(|former| fingerprint(former) == *fingerprint_of_it)
    }
}

/// The certificates in a PEM text, each with its line end.
fn certificates_in(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive("-----END CERTIFICATE-----\n")
        .filter(|part| part.contains("-----BEGIN CERTIFICATE-----"))
}

/// An authority that a fleet needs.
struct Asked {
    secret: String,
    name: String,
    issuer: Issuer,
    /// Secrets with certificates of it: they tell whom to trust if it was lost.
    served: Vec<String>,
}

impl Asked {
    async fn ensure(&self, store: &SecretStore, now: SystemTime) -> Result<Signer, ClusterError> {
        if let Some(held) = store.get(&self.secret).await? {
            return self.read(&held);
        }
        let former = self.former(store).await?;
        let authority = Authority::generate(&self.name)?;
        let certificate = authority.certificate_pem(now)?;
        let mut text = SecretText::from([
            (AUTHORITY_KEY.to_owned(), authority.key_pem()),
            (
                AUTHORITY_CERTIFICATE.to_owned(),
                Zeroizing::new(certificate.clone()),
            ),
        ]);
        let (mut notes, mut replaced_at) = (BTreeMap::new(), None);
        if !former.is_empty() {
            text.insert(
                FORMER_CERTIFICATES.to_owned(),
                Zeroizing::new(former.clone()),
            );
            notes.insert(REPLACED_AT.to_owned(), seconds(now).to_string());
            replaced_at = Some(seconds(now));
        }
        store
            .create(&self.secret, Lifetime::Fleet, &text, notes)
            .await?;
        Ok(Signer {
            secret: self.secret.clone(),
            authority,
            certificate,
            former,
            replaced_at,
        })
    }

    fn read(&self, held: &Held) -> Result<Signer, ClusterError> {
        let damaged = |what: String| ClusterError::Damaged {
            object: format!("secret/{}", self.secret),
            reason: format!("{what}; delete the Secret to have a new authority made"),
        };
        let get = |key: &str| {
            let text = held.text.get(key);
            text.ok_or_else(|| damaged(format!("it has no key {key}")))
        };
        // What is wrong with a private key is not told further than that.
        let authority = Authority::from_key(&self.name, get(AUTHORITY_KEY)?)
            .map_err(|_| damaged(format!("its {AUTHORITY_KEY} is no private key")))?;
        let certificate = get(AUTHORITY_CERTIFICATE)?;
        if certificates_in(certificate).next().is_none() {
            return Err(damaged(format!(
                "its {AUTHORITY_CERTIFICATE} is no certificate"
            )));
        }
        let former = held.text.get(FORMER_CERTIFICATES);
        Ok(Signer {
            secret: self.secret.clone(),
            authority,
            certificate: certificate.to_string(),
            former: former.map_or_else(String::new, |former| former.to_string()),
            replaced_at: held.notes.get(REPLACED_AT).and_then(|at| at.parse().ok()),
        })
    }

    /// Whom the processes that run trust, although the authority's own Secret is gone.
    async fn former(&self, store: &SecretStore) -> Result<String, ClusterError> {
        for secret in &self.served {
            let held = store.get(secret).await?;
            let trusted = held.and_then(|held| held.text.get(authority_key(&self.issuer)).cloned());
            if let Some(trusted) = trusted {
                return Ok(certificates_in(&trusted).collect());
            }
        }
        Ok(String::new())
    }
}

struct Issuing<'a> {
    names: &'a Names,
    region: &'a RegionPlan,
    role: Role,
    own: &'a Signer,
    gateways: Option<&'a Signer>,
    terms: CertificateTerms,
    now: SystemTime,
}

impl Issuing<'_> {
    fn processes(&self) -> &[ProcessPlan] {
        match self.role {
            Role::Nats => &self.region.nats,
            Role::Hub => &self.region.hubs,
            Role::Relay => &[],
        }
    }

    async fn ensure(
        &self,
        store: &SecretStore,
        found: &mut Certificates,
    ) -> Result<(), ClusterError> {
        if self.processes().is_empty() {
            return Ok(());
        }
        let secret = self.names.tls(&self.region.name, self.role);
        let held = store.get(&secret).await?;
        let (text, notes) = self.wanted(held.as_ref())?;
        let mut fixed = String::new();
        for (key, note) in &notes {
            let (issuer, signer) = if key.contains(".gateway.") {
                ("gateway", self.gateways.unwrap_or(self.own))
            } else {
                ("region", self.own)
            };
            if issuer == "gateway" {
                fixed.push_str(&format!("{key}@{};", note.at));
            }
            if note.authority != fingerprint(&signer.certificate)
                || self.age(note.at) < TRUSTED_WITHIN
            {
                found.succeeding.insert(signer.secret.clone());
            }
            found.fresh |= self.age(note.at) < SPREAD_WITHIN;
            if let Some(process) = key.strip_suffix(".region.crt") {
                found.until.insert(process.to_owned(), note.until);
            }
            let until = UNIX_EPOCH + Duration::from_secs(note.until);
            found
                .expiry
                .entry((self.region.name.clone(), issuer))
                .and_modify(|first| *first = until.min(*first))
                .or_insert(until);
        }
        if let Some(gateways) = self
            .gateways
            .filter(|gateways| gateways.replaced_at.is_some())
        {
            // What a hub trusts at its gateway it cannot load again.
            fixed.push_str(&fingerprint(&gateways.certificate));
        }
        // A server loads a renewed certificate again, except that of a gateway. Of another authority, all sides must restart.
        fixed.push_str(&fingerprint(&self.own.certificate));
        found.fixed.insert(
            self.names.set(&self.region.name, self.role),
            restart_hash(&secret, &[&fixed]),
        );
        let json = serde_json::to_string(&notes).expect("notes are plain JSON");
        let annotations: BTreeMap<String, String> = [(ISSUED.to_owned(), json)].into();
        match held {
            None => {
                store
                    .create(&secret, Lifetime::Fleet, &text, annotations)
                    .await?;
                found.issued.push(secret);
            }
            Some(held) if held.text != text => {
                store.replace(&secret, &held, &text, annotations).await?;
                found.issued.push(secret);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// What the Secret should hold: what it holds where that is still good.
    fn wanted(
        &self,
        held: Option<&Held>,
    ) -> Result<(SecretText, BTreeMap<String, IssuedNote>), ClusterError> {
        let old: BTreeMap<String, IssuedNote> = held
            .and_then(|held| held.notes.get(ISSUED))
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let (mut text, mut notes) = (SecretText::new(), BTreeMap::new());
        for process in self.processes() {
            for plan in &process.certificates {
                let signer = match &plan.issuer {
                    Issuer::Region(_) => self.own,
                    Issuer::Gateways => self.gateways.unwrap_or(self.own),
                };
                text.insert(
                    authority_key(&plan.issuer).to_owned(),
                    Zeroizing::new(signer.trusted()),
                );
                let certificate = certificate_key(&process.id, &plan.issuer, "crt");
                let key = certificate_key(&process.id, &plan.issuer, "key");
                let kept = held.and_then(|held| {
                    let note = old.get(&certificate)?;
                    let good = note.hosts == plan.hosts && self.may_stay(note, signer);
                    Some((
                        held.text.get(&certificate)?.clone(),
                        held.text.get(&key)?.clone(),
                        note.clone(),
                    ))
                    .filter(|_| good)
                });
                let (issued, private, note) = match kept {
                    Some(kept) => kept,
                    None => self.issue(signer, &process.name(), &plan.hosts)?,
                };
                text.insert(certificate.clone(), issued);
                text.insert(key, private);
                notes.insert(certificate, note);
            }
        }
        Ok((text, notes))
    }

    /// A certificate of a lost authority is as good as any while everybody trusts that one, and better than a new one that nobody
    /// trusts yet: it cuts no server off from the others.
    fn may_stay(&self, note: &IssuedNote, signer: &Signer) -> bool {
        let young = self.age(note.at) < self.terms.renew_after;
        if note.authority == fingerprint(&signer.certificate) {
            return young;
        }
        let untrusted = signer
            .replaced_at
            .is_some_and(|at| self.age(at) < TRUSTED_WITHIN);
        let valid = seconds(self.now) < note.until;
        signer.signed_before(&note.authority) && (young || (untrusted && valid))
    }

    fn issue(
        &self,
        signer: &Signer,
        name: &str,
        hosts: &[String],
    ) -> Result<(Zeroizing<String>, Zeroizing<String>, IssuedNote), ClusterError> {
        let issued = signer
            .authority
            .issue_for(name, hosts, self.now, self.terms.lifetime)?;
        let at = seconds(self.now);
        let note = IssuedNote {
            hosts: hosts.to_vec(),
            at,
            until: at + self.terms.lifetime.as_secs(),
            authority: fingerprint(&signer.certificate),
        };
        Ok((Zeroizing::new(issued.certificate), issued.key, note))
    }

    fn age(&self, at: u64) -> Duration {
        Duration::from_secs(seconds(self.now).saturating_sub(at))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn fingerprint(certificate: &str) -> String {
    restart_hash("authority", &[certificate])
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
