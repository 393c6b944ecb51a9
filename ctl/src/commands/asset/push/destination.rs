//! Where `--to` leads.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use ship_bucket::BucketSettings;
use ship_model::name::HostName;

use crate::error::CommandError;

/// A push that the store has in its `store.toml`, or a place that is told here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Declared(HostName),
    Folder(PathBuf),
    /// Bucket and prefix.
    Bucket(String, String),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err("it names no bucket: s3://BUCKET or s3://BUCKET/PREFIX".to_owned());
            }
            let prefix = prefix.trim_end_matches('/');
            return Ok(Self::Bucket(bucket.to_owned(), prefix.to_owned()));
        }
        if text.contains("://") {
            return Err(
                "of addresses only s3://BUCKET/PREFIX is known; --endpoint says where it is".to_owned(),
            );
        }
        if text.contains('/') || text == "." || text == ".." {
            return Ok(Self::Folder(text.into()));
        }
        let name = HostName::new(text).map_err(|_| {
            format!("{text:?} is neither the name of a push nor a folder: a folder has a slash, ./{text}")
        })?;
        Ok(Self::Declared(name))
    }
}

/// How a bucket that is told here is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "With s3://BUCKET")]
pub struct Reach {
    /// Address of the S3-compatible store; without it Amazon's
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL", hide_env_values = true)]
    endpoint: Option<String>,
    /// Region of the bucket
    #[arg(
        long,
        value_name = "REGION",
        env = "AWS_REGION",
        hide_env_values = true,
        default_value = "us-east-1"
    )]
    region: String,
    /// PEM file with the certificates that the address's must come from, instead of the system's
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// Allow an http:// address: all but the secret key can be read on the way
    #[arg(long)]
    plain_http: bool,
    /// How long one request may take, with 5 MiB on your line
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    answer_seconds: u64,
}

impl Reach {
    pub fn settings(&self, bucket: &str, prefix: &str) -> Result<BucketSettings, CommandError> {
        let settings = BucketSettings {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            prefix: prefix.to_owned(),
            ca: self.ca.clone(),
            answer_seconds: self.answer_seconds,
            plain_http: self.plain_http,
            ..BucketSettings::of(bucket)
        };
        match settings.check() {
            Ok(()) => Ok(settings),
            Err(defect) => Err(CommandError::usage(defect.to_string())
                .hint("an http:// address is used with --plain-http; --answer-seconds is from 1 to 3600")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_place_is_a_name_a_folder_or_a_bucket() {
        let bucket = |bucket: &str, prefix: &str| Destination::Bucket(bucket.into(), prefix.into());
        for (text, meant) in [
            ("cdn", Destination::Declared(HostName::new("cdn").unwrap())),
            ("./cdn", Destination::Folder("./cdn".into())),
            ("/mnt/cdn", Destination::Folder("/mnt/cdn".into())),
            (".", Destination::Folder(".".into())),
            ("s3://assets", bucket("assets", "")),
            ("s3://assets/", bucket("assets", "")),
            ("s3://assets/web/a/", bucket("assets", "web/a")),
        ] {
            assert_eq!(text.parse(), Ok(meant), "{text}");
        }
        for (text, part) in [
            ("s3://", "names no bucket"),
            ("s3:///x", "names no bucket"),
            ("https://s3.example.com/x", "--endpoint"),
            ("Cdn", "./Cdn"),
        ] {
            let said = text.parse::<Destination>().unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
