//! The settings of the S3 archive, and what can be wrong with them. Nothing here repeats a secret.

use serde::{Deserialize, Serialize};

/// Settings of the S3 archive.
///
/// Pending uploads of servers that were killed stay in the bucket: give it a lifecycle rule that aborts incomplete multipart uploads
/// after a day. Authorities of a private endpoint are taken from the system's store (or `SSL_CERT_FILE`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The bucket. It must be there.
    pub bucket: String,
    /// What every key in the bucket begins with, ending in `/` (which is appended where it is missing). Empty: the whole bucket.
    pub prefix: String,
    /// `http://…` or `https://…` of the server; absent: AWS.
    pub endpoint: Option<String>,
    /// The region; absent: `us-east-1` with an endpoint, else what the AWS chain says.
    pub region: Option<String>,
    /// Whether the bucket stands in the path of a request and not in its host name; absent: only with an endpoint.
    pub path_style: Option<bool>,
    /// Identifier of the access key; absent, together with the secret: the usual AWS chain (environment, profile file, web identity,
    /// container, instance).
    pub access_key: Option<String>,
    /// The secret of the access key.
    pub secret_key: Option<String>,
    /// Encryption by the server.
    pub sse: Encryption,
    /// Identifier or ARN of the KMS key, with `sse: aws:kms`; absent: the account's default.
    pub kms_key: Option<String>,
    /// When requests carry checksums beside the signature; absent: `when_required` with an endpoint, `when_supported` for AWS.
    pub checksums: Option<Checksums>,
    /// MiB of the first 5,000 parts of a large object; later ones grow, since an object has 10,000 at most. 5 to 1024.
    pub part_mib: u32,
    /// Parts of one object that are sent at once. Memory for a writer: one more than this many parts. 1 to 64.
    pub parts_in_flight: u32,
    /// Milliseconds after which one call is given up; one that carries bytes has a second more for each MiB.
    pub deadline_ms: u64,
    /// Milliseconds after which joining the parts of an object is given up; the server takes its time for thousands.
    pub finish_deadline_ms: u64,
    /// Whether who asks for one large result by its link is sent on to the bucket, with an address that is signed for so many seconds as
    /// `presign_seconds` says. Clients must reach the endpoint then. Otherwise all bytes come through the server.
    pub presign: bool,
    /// Seconds for which such an address works, for anybody who has it. 1 to 604800.
    pub presign_seconds: u32,
}

/// How the server encrypts objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Encryption {
    /// As the bucket is configured.
    #[default]
    #[serde(rename = "none")]
    None,
    /// With keys of S3.
    #[serde(rename = "AES256")]
    Aes256,
    /// With a key of KMS.
    #[serde(rename = "aws:kms")]
    AwsKms,
}

/// When requests carry checksums and answers are checked against theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Where the protocol demands it: what other servers than AWS understand.
    WhenRequired,
    /// Always.
    WhenSupported,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            path_style: None,
            access_key: None,
            secret_key: None,
            sse: Encryption::None,
            kms_key: None,
            checksums: None,
            part_mib: 8,
            parts_in_flight: 2,
            deadline_ms: 30_000,
            finish_deadline_ms: 600_000,
            presign: false,
            presign_seconds: 300,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = |text: &Option<String>| text.as_ref().map(|_| "…");
        f.debug_struct("Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("access_key", &hidden(&self.access_key))
            .field("secret_key", &hidden(&self.secret_key))
            .field("sse", &self.sse)
            .field("kms_key", &self.kms_key)
            .field("checksums", &self.checksums)
            .field("part_mib", &self.part_mib)
            .field("parts_in_flight", &self.parts_in_flight)
            .field("deadline_ms", &self.deadline_ms)
            .field("finish_deadline_ms", &self.finish_deadline_ms)
            .field("presign", &self.presign)
            .field("presign_seconds", &self.presign_seconds)
            .finish()
    }
}

impl Settings {
    /// All that is wrong, each with the setting to look at. Never a secret.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut add = |setting: &str, wrong: bool, problem: &str| {
            if wrong {
                problems.push(format!("'{setting}' {problem}"));
            }
        };
        add("bucket", self.bucket.is_empty(), "is missing");
        let arn = self.bucket.starts_with("arn:");
        let odd = |c: char| c.is_whitespace() || c.is_control() || (c == '/' && !arn);
        add("bucket", self.bucket.contains(odd), "is the name alone, without '/' or spaces");
        let segment = |text: &str| matches!(text, "." | "..");
        add("prefix", self.prefix.split('/').any(segment), "has a segment '.' or '..'");
        add("prefix", self.prefix.contains(char::is_control), "has control characters");
        add("prefix", self.prefix.len() > 512, "is longer than 512 bytes");
        if let Some(endpoint) = &self.endpoint {
            let url = url::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let plain = url.as_ref().is_some_and(|url| {
                url.has_host() && url.username().is_empty() && url.password().is_none() && url.query().is_none()
            });
            add("endpoint", !plain, "is not of the form 'https://host:port'; credentials do not belong into it");
        }
        for (setting, value) in [
            ("region", &self.region),
            ("access_key", &self.access_key),
            ("secret_key", &self.secret_key),
            ("kms_key", &self.kms_key),
        ] {
            let Some(value) = value else { continue };
            add(setting, value.is_empty(), "is empty: set it, or leave it out");
            let white = value.contains(|c: char| c.is_whitespace() || c.is_control());
            add(setting, white, "has white space in it (a line end at the end of a file?)");
        }
        match (&self.access_key, &self.secret_key) {
            (Some(_), None) => add("secret_key", true, "is missing, though 'access_key' is set"),
            (None, Some(_)) => add("access_key", true, "is missing, though 'secret_key' is set"),
            _ => {}
        }
        add("kms_key", self.kms_key.is_some() && self.sse != Encryption::AwsKms, "needs 'sse' to be 'aws:kms'");
        add("part_mib", !(5..=1024).contains(&self.part_mib), "is not between 5 and 1024");
        add("parts_in_flight", !(1..=64).contains(&self.parts_in_flight), "is not between 1 and 64");
        add("deadline_ms", self.deadline_ms == 0, "is 0");
        add("presign_seconds", !(1..=604_800).contains(&self.presign_seconds), "is not between 1 and 604800");
        add("finish_deadline_ms", self.finish_deadline_ms == 0, "is 0");
        problems
    }

    /// The prefix as it is used, and whether a `/` was appended.
    pub(super) fn whole_prefix(&self) -> (String, bool) {
        let incomplete = !self.prefix.is_empty() && !self.prefix.ends_with('/');
        (format!("{}{}", self.prefix, if incomplete { "/" } else { "" }), incomplete)
    }
}
