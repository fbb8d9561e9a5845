//! The bucket and the client that speaks to it, made once from the settings.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::{ChecksumAlgorithm, ServerSideEncryption};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::super::{ArchiveError, is_key};
use super::error::S3Error;
use super::settings::{Checksums, Encryption, Settings};

/// The longest key that S3 takes, in bytes.
const LONGEST_KEY: usize = 1024;

/// The first segment of a key that no object may have: the probe of readiness stands there.
pub(super) const PROBE: &str = ".ready";

/// Everything that calls need.
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) prefix: String,
    /// The endpoint, for people.
    pub(super) server: String,
    chain: bool,
    /// Encryption by the server, with the key of KMS.
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) kms_key: Option<String>,
    /// The checksum that parts carry.
    pub(super) checksum: Option<ChecksumAlgorithm>,
    /// Bytes of the first parts.
    pub(super) part: usize,
    pub(super) parts_in_flight: usize,
    pub(super) deadline: Duration,
    pub(super) finish_deadline: Duration,
}

impl Bucket {
    /// Makes the client. No request is sent, but for those with which the AWS chain looks for a region.
    pub(super) async fn connect(settings: &Settings) -> Result<Self, ArchiveError> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(S3Error::Settings(problems.join("; ")).into());
        }
        let deadline = Duration::from_millis(settings.deadline_ms);
        let checksums = settings.checksums.unwrap_or(match settings.endpoint {
            Some(_) => Checksums::WhenRequired,
            None => Checksums::WhenSupported,
        });
        let region = match (&settings.region, &settings.endpoint) {
            (Some(region), _) => Some(Region::new(region.clone())),
            (None, Some(_)) => Some(Region::from_static("us-east-1")),
            (None, None) => None,
        };
        let keys = settings.access_key.as_deref().zip(settings.secret_key.as_deref());
        let mut config = if let (Some(region), Some((access, secret))) = (&region, keys) {
            let credentials = Credentials::new(access, secret, None, None, "settings");
            Config::builder().region(region.clone()).credentials_provider(credentials)
        } else {
            let mut chain = aws_config::defaults(BehaviorVersion::latest()).http_client(https());
            if let Some(region) = region {
                chain = chain.region(region);
            }
            if let Some((access, secret)) = keys {
                chain = chain.credentials_provider(Credentials::new(access, secret, None, None, "settings"));
            }
            let found = tokio::time::timeout(deadline, chain.load())
                .await
                .map_err(|_| ArchiveError::Timeout(deadline.as_secs()))?;
            if found.region().is_none() {
                let problem = "'region' is missing, and the aws chain has none either";
                return Err(S3Error::Settings(problem.to_owned()).into());
            }
            aws_sdk_s3::config::Builder::from(&found)
        };
        // A plain connection needs no certificates, which a bare container does not have.
        let plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http:"));
        config = config
            .behavior_version(BehaviorVersion::latest())
            .http_client(if plain { Builder::new().build_http() } else { https() })
            .force_path_style(settings.path_style.unwrap_or(settings.endpoint.is_some()))
            .retry_config(patient())
            .timeout_config(within(deadline))
            // Bodies that stall have our own deadlines, which know when nobody asks for the next bytes.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config = match checksums {
            Checksums::WhenRequired => config
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
            Checksums::WhenSupported => config
                .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
                .response_checksum_validation(ResponseChecksumValidation::WhenSupported),
        };
        config.set_endpoint_url(settings.endpoint.clone());
        let config = config.build();
        let region = config.region().map_or_else(String::new, |region| region.as_ref().to_owned());
        Ok(Self {
            client: Client::from_conf(config),
            name: settings.bucket.clone(),
            prefix: settings.whole_prefix().0,
            server: settings.endpoint.clone().unwrap_or_else(|| format!("AWS {region}")),
            chain: keys.is_none(),
            encryption: match settings.sse {
                Encryption::None => None,
                Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
                Encryption::AwsKms => Some(ServerSideEncryption::AwsKms),
            },
            kms_key: settings.kms_key.clone(),
            checksum: (checksums == Checksums::WhenSupported).then_some(ChecksumAlgorithm::Crc32),
            part: usize::try_from(settings.part_mib).unwrap_or(8).saturating_mul(1024 * 1024),
            parts_in_flight: usize::try_from(settings.parts_in_flight).unwrap_or(1),
            deadline,
            finish_deadline: Duration::from_millis(settings.finish_deadline_ms),
        })
    }

    /// The key in the bucket of a key of the archive, if it is one.
    pub(super) fn key(&self, key: &str) -> Option<String> {
        let free = key.split('/').next() != Some(PROBE);
        let fits = self.prefix.len().saturating_add(key.len()) <= LONGEST_KEY;
        (is_key(key) && free && fits).then(|| format!("{}{key}", self.prefix))
    }

    /// The key of the probe.
    pub(super) fn probe(&self) -> String {
        format!("{}{PROBE}", self.prefix)
    }

    /// The deadline of a call that carries so many bytes.
    pub(super) fn deadline_for(&self, bytes: usize) -> Duration {
        self.deadline.saturating_add(Duration::from_secs((bytes / (1024 * 1024)) as u64))
    }

    pub(super) fn credentials_hint(&self) -> &'static str {
        if self.chain {
            "'access_key' is not set, so look at what the aws chain has: environment, profile file, web identity, instance"
        } else {
            "look at 'endpoint' and 'region'"
        }
    }
}

/// The HTTP client for encrypted connections: rustls with ring, the system's certificates.
fn https() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// Retries for a server that is away for some seconds; the deadline of the call ends them.
fn patient() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(6)
        .with_initial_backoff(Duration::from_millis(300))
        .with_max_backoff(Duration::from_secs(5))
}

/// No retries, for a call whose answer is wanted at once.
pub(super) fn at_once(deadline: Duration) -> aws_sdk_s3::config::Builder {
    Config::builder().retry_config(RetryConfig::disabled()).timeout_config(within(deadline))
}

/// Another deadline for one call.
pub(super) fn lasting(deadline: Duration) -> aws_sdk_s3::config::Builder {
    Config::builder().timeout_config(within(deadline))
}

/// A call may take so long in all, one attempt of it half, so that a connection that hangs is tried anew.
fn within(deadline: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_timeout(deadline)
        .operation_attempt_timeout(deadline / 2)
        .connect_timeout(Duration::from_secs(5).min(deadline))
        .build()
}
