//! `saker config`: the configuration's schema, its check, and what it amounts to.

use std::path::PathBuf;

use super::{Failure, chain, print};
use crate::config::Config;

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The JSON schema of the configuration file, for editors.
    Schema,
    /// Whether a configuration is sound, with what the environment overrides, and the files that it names.
    Check(File),
    /// The configuration that would run: the file, what the environment overrides, and the default of everything else, as YAML.
    Print(File),
}

/// Which.
#[derive(Debug, clap::Args)]
pub struct File {
    /// The file; without one every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Does it.
pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Schema => {
            let schema = schemars::schema_for!(Config);
            let text = serde_json::to_string_pretty(&schema)
                .map_err(|error| Failure::Internal(error.to_string()))?;
            print(&(text + "\n"))
        }
        Command::Check(file) => {
            let config = file.read()?;
            config.check_files().map_err(Failure::Input)?;
            print("the configuration is sound\n")
        }
        Command::Print(file) => {
            let config = file.read()?;
            let text = serde_saphyr::to_string(&config)
                .map_err(|error| Failure::Internal(error.to_string()))?;
            print(&text)
        }
    }
}

impl File {
    fn read(&self) -> Result<Config, Failure> {
        Config::load(self.config.as_deref()).map_err(|error| Failure::Input(chain(&error)))
    }
}
