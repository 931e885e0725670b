//! Reads which engine and plugins a file requires, and says where Saker has no such.

use super::{About, Read, Reader};
use crate::{
    diagnostic::Code,
    loader::yaml::{Kind, Node},
};

/// Falco's engine whose rules files load here. A file may ask for this version or an earlier one.
pub const ENGINE_VERSION: (u32, u32, u32) = (0, 64, 0);

impl Reader<'_> {
    pub(super) fn engine_version(&mut self, node: &Node) -> Read<()> {
        let about = About {
            kind: "required_engine_version",
            name: "",
            node,
        };
        let text = self.text_value(node, "required_engine_version", about)?;
        let place = self.place(node);
        let Some(wanted) = parse_version(text.as_str()) else {
            let message = format!(
                "Unable to parse engine version '{}' as a semver string. Expected \"x.y.z\" semver format.",
                text.as_str()
            );
            return self.broken(Code::EngineVersion, &message, place);
        };
        let (major, minor, patch) = ENGINE_VERSION;
        if wanted.0 != major || wanted > ENGINE_VERSION {
            let message = format!(
                "Rules require engine version {}.{}.{}, but engine version is {major}.{minor}.{patch}",
                wanted.0, wanted.1, wanted.2
            );
            return self.broken(Code::EngineVersion, &message, place);
        }
        let version = &mut self.collected.engine_version;
        *version = (*version).max(Some(wanted));
        Ok(())
    }

    pub(super) fn plugin_versions(&mut self, node: &Node) -> Read<()> {
        let about = About {
            kind: "required_plugin_versions",
            name: "",
            node,
        };
        let Kind::Sequence(plugins) = &node.kind else {
            return self.wrong(
                node,
                "Value of required_plugin_versions must be a sequence",
                about,
            );
        };
        for plugin in plugins {
            if !matches!(plugin.kind, Kind::Mapping(_)) {
                return self.wrong(plugin, "Plugin version must be a mapping", about);
            }
            let mut names = vec![self.plugin(plugin, about)?];
            if let Some(alternatives) = plugin.get("alternatives") {
                let Kind::Sequence(nodes) = &alternatives.kind else {
                    let message = "Value of plugin version alternatives must be a sequence";
                    return self.wrong(alternatives, message, about);
                };
                for alternative in nodes {
                    if !matches!(alternative.kind, Kind::Mapping(_)) {
                        let message = "Plugin version alternative must be a mapping";
                        return self.wrong(alternative, message, about);
                    }
                    let name = self.plugin(alternative, about)?;
                    if names.contains(&name) {
                        let message = format!(
                            "Defined multiple alternative version requirements for plugin '{name}'"
                        );
                        return self.broken(Code::EngineVersion, &message, self.head(alternative));
                    }
                    names.push(name);
                }
            }
            // Saker supplies the container plugin's fields itself.
            if !names.iter().any(|name| name == "container") {
                let message = format!(
                    "plugin '{}' is not available; Saker has no plugins",
                    names[0]
                );
                self.warn(Code::PluginRequired, message, self.head(plugin), about);
            }
        }
        Ok(())
    }

    fn plugin(&mut self, node: &Node, about: About<'_>) -> Read<String> {
        let name = self.required(node, "name", about)?;
        let name = self.text_value(name, "name", about)?.as_str().to_owned();
        let version_node = self.required(node, "version", about)?;
        let version = self.text_value(version_node, "version", about)?;
        if parse_version(version.as_str()).is_none() {
            let message = format!(
                "Invalid required version '{}' for plugin '{name}'",
                version.as_str()
            );
            return self.broken(Code::EngineVersion, &message, self.place(version_node));
        }
        Ok(name)
    }
}

/// `x.y.z`, perhaps with a suffix, or a bare number, which stands for the middle one.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    if let Ok(number) = text.parse::<u32>() {
        return Some((0, number, 0));
    }
    let release = text.split(['-', '+']).next()?;
    let mut parts = release.split('.');
    let mut number = || parts.next()?.parse::<u32>().ok();
    let version = (number()?, number()?, number()?);
    parts.next().is_none().then_some(version)
}
