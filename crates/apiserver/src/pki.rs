//! The cluster's certificate authority: load it from a directory or make it, issue certificates, render kubeconfigs.
//!
//! Keys are ECDSA P-256. Files: `ca.crt` (0644), `ca.key` and `sa.key` (0600), with which service account tokens are
//! signed, in the directory (0700); nothing else is stored here. Issued pairs live where the caller puts them. Client certificates carry the user in CN and the group in O, as
//! upstream's x509 authenticator reads them.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::Error;

/// The certificate authority of one cluster.
pub struct Pki {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    signing_key_pem: String,
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8. Write it to files of mode 0600 only.
    pub key_pem: String,
}

/// What an issued certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A user or component that calls servers.
    Client,
    /// A server that listens on the subject alternative names.
    Server,
}

/// A name that a serving certificate is valid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl Pki {
    /// Reads the authority from `dir`, or makes `dir` (0700) and a new authority (valid for ten years) in it.
    ///
    /// # Errors
    /// A file cannot be read or written, or what is there is not a certificate and its key.
    pub fn load_or_create(dir: &Path) -> Result<Pki, Error> {
        let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        if crt.exists() && key.exists() {
            let certificate_pem = read(&crt)?;
            let key_pair = KeyPair::from_pem(&read(&key)?)?;
            let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key_pair)?;
            let signing_key_pem = load_or_create_signing_key(dir)?;
            return Ok(Pki { certificate_pem, issuer, signing_key_pem });
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| Error::File { path: dir.to_owned(), source })?;
        let (mut pki, key_pem) = Pki::generate()?;
        // An authority is made anew after a crash; tokens are good as long as their key is there.
        pki.signing_key_pem = load_or_create_signing_key(dir)?;
        // The key first: a crash between the two leaves a key without certificate, which is made anew.
        write_private(&key, &key_pem)?;
        write(&crt, &pki.certificate_pem, 0o644)?;
        Ok(pki)
    }

    /// An authority that lives in memory only (tests, examples).
    ///
    /// # Errors
    /// The random number generator failed.
    pub fn ephemeral() -> Result<Pki, Error> {
        Ok(Pki::generate()?.0)
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key of service account tokens, PKCS#8, PEM.
    pub(crate) fn signing_key_pem(&self) -> &str {
        &self.signing_key_pem
    }

    /// Issues a certificate, valid for one year from now.
    ///
    /// `organization` is the group of a client. Servers need at least one of `sans`.
    ///
    /// # Errors
    /// A DNS name is not ASCII, or signing failed.
    pub fn issue(
        &self,
        common_name: &str,
        organization: Option<&str>,
        sans: &[San],
        usage: Usage,
    ) -> Result<Pair, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, organization);
        params.subject_alt_names = sans
            .iter()
            .map(|san| {
                Ok(match san {
                    San::Dns(dns) => SanType::DnsName(dns.as_str().try_into()?),
                    San::Ip(ip) => SanType::IpAddress(*ip),
                })
            })
            .collect::<Result<_, rcgen::Error>>()?;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, 365);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The text of a kubeconfig for `user` at `server` (e.g. `https://127.0.0.1:6443`), everything embedded.
    pub fn kubeconfig(&self, server: &str, user: &str, pair: &Pair) -> String {
        let b64 = |s: &str| base64::engine::general_purpose::STANDARD.encode(s);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": {},
            "clusters": [{"name": "portolan", "cluster": {
                "server": server,
                "certificate-authority-data": b64(&self.certificate_pem),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": b64(&pair.certificate_pem),
                "client-key-data": b64(&pair.key_pem),
            }}],
            "contexts": [{"name": "portolan", "context": {"cluster": "portolan", "user": user}}],
            "current-context": "portolan",
        });
        serde_saphyr::to_string(&config).expect("a JSON tree with string keys is always YAML")
    }

    fn generate() -> Result<(Pki, String), Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("portolan-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        set_validity(&mut params, 3650);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let key_pem = key.serialize_pem();
        let certificate_pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)?;
        Ok((Pki { certificate_pem, issuer, signing_key_pem: new_key()? }, key_pem))
    }
}

fn new_key() -> Result<String, Error> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem())
}

fn load_or_create_signing_key(dir: &Path) -> Result<String, Error> {
    let path = dir.join("sa.key");
    if path.exists() {
        return read(&path);
    }
    let key = new_key()?;
    write_private(&path, &key)?;
    Ok(key)
}

/// Writes a secret: mode 0600, whole or not at all (temporary file, then rename).
///
/// # Errors
/// The file cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let attempt = || {
        let _ = fs::remove_file(&temporary);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn name(common_name: &str, organization: Option<&str>) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Valid from yesterday, so that a clock set back a little does not lock everyone out.
fn set_validity(params: &mut CertificateParams, days: i64) {
    const DAY: i64 = 86_400;
    let now = jiff::Timestamp::now().as_second();
    let at = |second: i64| {
        let date = jiff::Timestamp::from_second(second)
            .expect("ten years from now is a timestamp")
            .to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(
            i32::from(date.year()),
            u8::try_from(date.month()).expect("a month is 1 to 12"),
            u8::try_from(date.day()).expect("a day is 1 to 31"),
        )
    };
    params.not_before = at(now - DAY);
    params.not_after = at(now + days * DAY);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_survives_a_restart_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("pki");
        let first = Pki::load_or_create(&at).unwrap();
        let second = Pki::load_or_create(&at).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert_eq!(first.signing_key_pem(), second.signing_key_pem());
        for key in ["ca.key", "sa.key"] {
            let mode = fs::metadata(at.join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert!(second.issue("x", Some("g"), &[], Usage::Client).is_ok());
    }

    #[test]
    fn a_kubeconfig_parses_back() {
        let pki = Pki::ephemeral().unwrap();
        let pair = pki.issue("a", Some("system:masters"), &[], Usage::Client).unwrap();
        let text = pki.kubeconfig("https://127.0.0.1:1", "a", &pair);
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("portolan"));
    }
}
