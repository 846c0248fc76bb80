//! Engine settings and their origin.

use std::fmt;

/// One setting of the engine in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EngineSetting {
    pub(crate) name: String,
    pub(crate) value: String,
    source: SettingSource,
}

/// The origin of a setting's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SettingSource {
    /// An option of this connector's builder.
    Option,
    /// The environment of the process, which takes precedence over options.
    Environment,
    /// A file of the engine's settings, over which options take precedence.
    File,
    /// The connector chose it, for this machine.
    Chosen,
    /// An earlier connector of this process, since the engine has one value for all.
    EarlierConnector,
}

impl EngineSetting {
    /// A setting in force.
    pub fn new(name: impl Into<String>, value: impl Into<String>, source: SettingSource) -> Self {
        Self { name: name.into(), value: value.into(), source }
    }

    /// Its name in the engine, such as `UCX_TLS`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The origin of the value.
    #[must_use]
    pub fn source(&self) -> SettingSource {
        self.source
    }
}

impl fmt::Display for EngineSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            SettingSource::Option => "option",
            SettingSource::Environment => "environment",
            SettingSource::File => "file",
            SettingSource::Chosen => "chosen here",
            SettingSource::EarlierConnector => "earlier connector",
        };
        write!(f, "{}={} ({source})", self.name, self.value)
    }
}
