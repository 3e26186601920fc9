//! A chained plugin with error codes of its own: it limits the number of attachments to a network
//! on this node.
//!
//! ```json
//! { "type": "quota", "limit": 10, "directory": "/run/quota" }
//! ```
//!
//! | code | error |
//! |---|---|
//! | 100 | the limit is reached |
//! | 101 | the attachment does not count, as CHECK found |

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use rscni::{Args, Attachment, CNIResult, Cni, Error, Plugin};
use serde::Deserialize;

/// The keys of the plugin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quota {
    limit: usize,
    directory: PathBuf,
}

impl Quota {
    fn read(args: &Args) -> Result<Self, Error> {
        let conf = args.conf()?;
        let quota: Self = conf.custom_as()?;
        Ok(Self { directory: quota.directory.join(&conf.name), ..quota })
    }

    /// Returns the used places with their attachments. A place is a file, so that concurrent calls
    /// cannot take the same one.
    fn used(&self) -> Result<Vec<(PathBuf, Attachment)>, Error> {
        let mut used = Vec::new();
        for place in (0..self.limit).map(|number| self.directory.join(number.to_string())) {
            match fs::read(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                content => used.push((place, serde_json::from_slice(&content?)?)),
            }
        }
        Ok(used)
    }

    fn take_place(&self, attachment: &Attachment) -> Result<(), Error> {
        fs::create_dir_all(&self.directory)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(&serde_json::to_vec(attachment)?)?;
        for number in 0..self.limit {
            match file.persist_noclobber(self.directory.join(number.to_string())) {
                Ok(_) => return Ok(()),
                Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {
                    file = taken.file;
                }
                Err(failed) => return Err(failed.error.into()),
            }
        }
        let details = format!("{} containers are attached on this node", self.limit);
        Err(Error::Custom(100, "quota exceeded".into(), details))
    }

    fn release(&self, is_stale: impl Fn(&Attachment) -> bool) -> Result<(), Error> {
        for (place, _) in self.used()?.into_iter().filter(|(_, holder)| is_stale(holder)) {
            fs::remove_file(place)?;
        }
        Ok(())
    }
}

fn attachment(args: &Args) -> Attachment {
    Attachment { container_id: args.container_id.clone(), ifname: args.ifname.clone() }
}

struct QuotaPlugin;

impl Cni for QuotaPlugin {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let result = args.conf()?.prev_result.clone().ok_or_else(|| {
            Error::InvalidNetworkConfig("quota must follow another plugin".into())
        })?;
        Quota::read(&args)?.take_place(&attachment(&args))?;
        Ok(result)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        Quota::read(&args)?.release(|holder| *holder == attachment(&args))
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        let this = attachment(&args);
        if Quota::read(&args)?.used()?.iter().any(|(_, holder)| *holder == this) {
            return Ok(());
        }
        Err(Error::Custom(101, "the attachment does not count".into(), this.container_id))
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        let valid = args.conf()?.valid_attachments.clone().unwrap_or_default();
        Quota::read(&args)?.release(|holder| !valid.contains(holder))
    }
}

fn main() -> ExitCode {
    Plugin::default().msg("CNI quota plugin v0.1.0").main(&QuotaPlugin)
}
