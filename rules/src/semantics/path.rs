//! `pmatch`: whether one of several paths is a prefix of a path, component by component.
//!
//! Components may be shell patterns. Empty components do not count, so `/usr/` is `/usr` and `/` is a
//! prefix of everything.

use rustc_hash::FxHashMap;

use super::Glob;

/// Paths in a tree by components.
#[derive(Debug, Default)]
pub(crate) struct PathSet {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Whether a path ends here; what lies below no longer matters.
    is_end: bool,
    plain: FxHashMap<Box<[u8]>, Node>,
    patterns: Vec<(Box<[u8]>, Glob, Node)>,
}

impl PathSet {
    pub(crate) fn new(paths: &[&[u8]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut node = &mut set.root;
            for component in components(path) {
                node = node.child(component);
            }
            node.is_end = true;
        }
        set
    }

    pub(crate) fn contains_prefix_of(&self, path: &[u8]) -> bool {
        self.root.matches(components(path))
    }
}

impl Node {
    fn child(&mut self, component: &[u8]) -> &mut Node {
        if !component
            .iter()
            .any(|byte| matches!(byte, b'*' | b'?' | b'['))
        {
            return self.plain.entry(component.into()).or_default();
        }
        let index = match self
            .patterns
            .iter()
            .position(|(text, ..)| **text == *component)
        {
            Some(index) => index,
            None => {
                let glob = Glob::new(component, false);
                self.patterns
                    .push((component.into(), glob, Node::default()));
                self.patterns.len() - 1
            }
        };
        &mut self.patterns[index].2
    }

    fn matches<'a>(&self, mut rest: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        if self.is_end {
            return true;
        }
        let Some(component) = rest.next() else {
            return false;
        };
        self.plain
            .get(component)
            .is_some_and(|node| node.matches(rest.clone()))
            || self
                .patterns
                .iter()
                .any(|(_, glob, node)| glob.matches(component) && node.matches(rest.clone()))
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_matched_by_component() {
        let check = |paths: &[&str], path: &str, expected: bool| {
            let paths: Vec<_> = paths.iter().map(|path| path.as_bytes()).collect();
            let set = PathSet::new(&paths);
            assert_eq!(set.contains_prefix_of(path.as_bytes()), expected, "{path}");
        };
        check(&["/var/run", "/etc"], "/var/run/docker", true);
        check(&["/var/run", "/etc"], "/boot", false);
        check(&["/var/run", "/etc"], "/var/lib", false);
        check(&["/var/run", "/etc"], "/var", false);
        check(&["/var/run"], "/var/runner", false);
        check(&["/"], "/anything", true);
        check(&["/"], "", true);
        check(&[], "/anything", false);
        check(&["/opt/*/subdir"], "/opt/dir/subdir/file.txt", true);
        check(
            &["/opt/*/subdir2", "/opt/d*/x"],
            "/opt/dir/subdir/file.txt",
            false,
        );
        check(&["/opt/*/*"], "/opt/dir/subdir/file.txt", true);
        check(&["/usr", "/usr/lib"], "/usr/bin", true);
        check(&["/usr/"], "//usr//lib", true);
    }
}
