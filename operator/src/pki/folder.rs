//! The folder of keys (`DIR/keys`, mode 0700): every file 0600, made when absent, replaced by rename, never overwritten by new secrets.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nightjar_envelope::RegionName;
use zeroize::Zeroizing;

use super::PkiError;
use super::authority::Authority;
use super::user::{UserKey, role_name};
use crate::plan::{
    CertificatePlan, Credential, FileRef, Issuer, ProcessId, RegionKeys, SeedForm, SeedPlan,
};

/// Certificates older than this are issued again at the next start; they are valid for four times as long.
const RENEW_AFTER: Duration = Duration::from_secs(182 * 86_400);

/// The folder of keys of one fleet. Files of a region lie in `regions/<region>`.
#[derive(Debug, Clone)]
pub struct KeyFolder {
    dir: PathBuf,
}

impl KeyFolder {
    /// Opens the folder and makes it when absent; its mode becomes 0700.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        make_private_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Where the fleet's keyring lies.
    pub fn keyring_path(&self) -> PathBuf {
        self.dir.join("keyring.json")
    }

    /// Where a file of a process lies, if it is one of this folder's.
    pub fn path(&self, process: &ProcessId, file: &FileRef) -> Option<PathBuf> {
        let own = |issuer: &Issuer, kind: &str| {
            let link = match issuer {
                Issuer::Region(_) => "region",
                Issuer::Gateways => "gateway",
            };
            self.region_dir(&process.region)
                .join(format!("{process}.{link}.{kind}"))
        };
        match file {
            FileRef::Keyring => Some(self.keyring_path()),
            FileRef::Seed(credential, form) => {
                Some(self.seed_path(&process.region, *credential, *form))
            }
            FileRef::Authority(issuer) => Some(self.authority_stem(issuer).with_extension("crt")),
            FileRef::Certificate(issuer) => Some(own(issuer, "crt")),
            FileRef::PrivateKey(issuer) => Some(own(issuer, "key")),
            _ => None,
        }
    }

    /// Public halves of a region's NATS users; those that have no seed yet are made.
    pub fn users(&self, region: &RegionName) -> Result<RegionKeys, PkiError> {
        make_private_dir(&self.region_dir(region))?;
        Ok(RegionKeys {
            relay: self.ensure_user(region, Credential::Relay)?,
            admin: self.ensure_user(region, Credential::Admin)?,
            system: self.ensure_user(region, Credential::System)?,
            leaf: self.ensure_user(region, Credential::Leaf)?,
        })
    }

    /// The seed of one of a region's users (`SU...`).
    pub fn seed(
        &self,
        region: &RegionName,
        credential: Credential,
    ) -> Result<Zeroizing<String>, PkiError> {
        let path = self.seed_path(region, credential, SeedForm::Plain);
        let text = read_private(&path)?.ok_or_else(|| PkiError::File {
            path: path.clone(),
            source: std::io::Error::from(ErrorKind::NotFound),
        })?;
        user(&path, credential, &text)?.seed(credential)
    }

    /// Puts a planned seed where its process reads it, in the form it needs. The user exists already.
    pub fn ensure_seed(&self, region: &RegionName, plan: &SeedPlan) -> Result<(), PkiError> {
        let text = Zeroizing::new(plan.form.text(&self.seed(region, plan.credential)?));
        // A file that holds the same seed in another shape, say without the last line end, is left alone.
        match read_private(&plan.path)? {
            Some(present) if present.trim() == text.trim() => Ok(()),
            _ => write_private(&plan.path, text.as_bytes()),
        }
    }

    /// Makes a planned certificate, its key and its authority, unless they are there and young enough.
    pub fn ensure_certificate(
        &self,
        plan: &CertificatePlan,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        let (authority, authority_made) = self.authority(&plan.issuer, now)?;
        if plan.authority != self.authority_stem(&plan.issuer).with_extension("crt")
            && !plan.authority.exists()
        {
            write_private(&plan.authority, authority.certificate_pem(now)?.as_bytes())?;
        }
        if !needs_issue(plan, authority_made, now) {
            return Ok(());
        }
        let name = plan
            .certificate
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let issued = authority.issue(&name, &plan.hosts, now)?;
        // A crash in between must leave no certificate, rather than one of another key.
        remove_if_there(&plan.certificate)?;
        write_private(&plan.private_key, issued.key.as_bytes())?;
        write_private(&plan.certificate, issued.certificate.as_bytes())
    }

    fn region_dir(&self, region: &RegionName) -> PathBuf {
        self.dir.join("regions").join(region.as_str())
    }

    fn seed_path(&self, region: &RegionName, credential: Credential, form: SeedForm) -> PathBuf {
        let extension = match form {
            SeedForm::Plain => "nk",
            SeedForm::NatsVariable => "nk.conf",
        };
        self.region_dir(region)
            .join(format!("{}.{extension}", role_name(credential)))
    }

    fn authority_stem(&self, issuer: &Issuer) -> PathBuf {
        match issuer {
            Issuer::Region(region) => self.region_dir(region).join("ca"),
            Issuer::Gateways => self.dir.join("gateway-ca"),
        }
    }

    /// Loads an authority or makes it. The time is when its certificate was written.
    fn authority(
        &self,
        issuer: &Issuer,
        now: SystemTime,
    ) -> Result<(Authority, SystemTime), PkiError> {
        let name = match issuer {
            Issuer::Region(region) => format!("nightjar region {region}"),
            Issuer::Gateways => "nightjar gateways".to_owned(),
        };
        let stem = self.authority_stem(issuer);
        let (key, certificate) = (stem.with_extension("key"), stem.with_extension("crt"));
        let authority = match read_private(&key)? {
            Some(pem) => Authority::from_key(&name, &pem).map_err(|_| PkiError::Damaged {
                path: key.clone(),
                expected: "a private key in PEM",
            })?,
            None => {
                if let Some(dir) = key.parent() {
                    make_private_dir(dir)?;
                }
                let authority = Authority::generate(&name)?;
                remove_if_there(&certificate)?;
                write_private(&key, authority.key_pem().as_bytes())?;
                authority
            }
        };
        if modified(&certificate).is_none() {
            write_private(&certificate, authority.certificate_pem(now)?.as_bytes())?;
        }
        Ok((authority, modified(&certificate).unwrap_or(now)))
    }

    fn ensure_user(&self, region: &RegionName, credential: Credential) -> Result<String, PkiError> {
        let path = self.seed_path(region, credential, SeedForm::Plain);
        if let Some(text) = read_private(&path)? {
            return Ok(user(&path, credential, &text)?.public());
        }
        let key = UserKey::generate();
        write_private(&path, key.seed(credential)?.as_bytes())?;
        Ok(key.public())
    }
}

fn user(path: &Path, credential: Credential, text: &str) -> Result<UserKey, PkiError> {
    UserKey::from_seed(credential, text).map_err(|_| PkiError::Damaged {
        path: path.to_owned(),
        expected: "the seed of an nkey user",
    })
}

/// Absent, old, or older than its authority's own certificate (so perhaps signed by an earlier one).
fn needs_issue(plan: &CertificatePlan, authority_made: SystemTime, now: SystemTime) -> bool {
    let Some(made) = modified(&plan.certificate) else {
        return true;
    };
    !plan.private_key.exists()
        || made < authority_made
        || now.duration_since(made).is_ok_and(|age| age > RENEW_AFTER)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn remove_if_there(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Makes a folder that only its owner can enter.
pub(crate) fn make_private_dir(dir: &Path) -> Result<(), PkiError> {
    let fail = |source| PkiError::File {
        path: dir.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(fail)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(fail)
}

/// Writes a file of mode 0600 beside its place, flushes it to disk, and renames it into place.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let fail = |source| PkiError::File {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // A leftover of a crash may have another mode: the file must be born private.
    remove_if_there(&temporary)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    // Until the folder is on disk, the rename may be lost with the power, and with it a key that something already uses.
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        .map_err(fail)
}

/// The text of a file, or nothing when it is absent.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
    }
}
