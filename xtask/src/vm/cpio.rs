//! The archive that a kernel unpacks as its first root file system: "newc" cpio, everything owned by root.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    written: usize,
    entries: u32,
}

impl Archive<BufWriter<File>> {
    /// Begins an archive in a new file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            entries: 0,
        }
    }

    /// Everything below a folder, links as links.
    pub fn tree(&mut self, folder: &Path) -> io::Result<()> {
        self.below(folder, folder)
    }

    fn below(&mut self, root: &Path, folder: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = path.strip_prefix(root).map_err(io::Error::other)?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.folder(name)?;
                self.below(root, &path)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                self.entry(name, LINK | 0o777, (0, 0), target.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                let mode = entry.metadata()?.permissions().mode() & 0o7777;
                self.file(name, mode, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    /// An empty folder.
    pub fn folder(&mut self, name: &Path) -> io::Result<()> {
        self.entry(name, FOLDER | 0o755, (0, 0), b"")
    }

    /// A file with these bytes.
    pub fn file(&mut self, name: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | mode, (0, 0), content)
    }

    /// A node for a character device.
    pub fn character_device(&mut self, name: &Path, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), b"")
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, (0, 0), b"")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &Path,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name = name.as_os_str().as_bytes();
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let number = self.entries;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check.
        let fields = [
            number, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08x}").as_bytes())?;
        }
        self.write(name)?;
        self.write(b"\0")?;
        self.align()?;
        self.write(content)?;
        self.align()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_and_contents_are_padded_to_words() {
        let check = |name: &str, content: &[u8]| {
            let mut archive = Archive::new(Vec::new());
            archive
                .file(Path::new(name), 0o644, content)
                .expect("memory");
            let bytes = archive.finish().expect("memory");
            assert!(bytes.starts_with(b"07070100000001000081a4"));
            let content_at = (110 + name.len() + 1).next_multiple_of(4);
            assert_eq!(&bytes[110..110 + name.len()], name.as_bytes());
            assert_eq!(&bytes[content_at..content_at + content.len()], content);
            let trailer_at = (content_at + content.len()).next_multiple_of(4);
            assert_eq!(&bytes[trailer_at..trailer_at + 6], b"070701");
            assert_eq!(bytes.len() % 4, 0);
        };
        for name in ["a", "ab", "abc", "abcd"] {
            for content in [&b""[..], b"1", b"12345678"] {
                check(name, content);
            }
        }
    }

    #[test]
    fn a_tree_comes_in_order_with_its_links() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("usr/bin")).expect("folders");
        fs::write(folder.path().join("usr/bin/x"), "x").expect("a file");
        symlink("usr/bin", folder.path().join("bin")).expect("a link");
        let mut archive = Archive::new(Vec::new());
        archive.tree(folder.path()).expect("reads");
        let bytes = archive.finish().expect("memory");
        let text = String::from_utf8_lossy(&bytes);
        let at: Vec<_> = ["bin\0", "usr\0", "usr/bin\0", "usr/bin/x\0", "TRAILER!!!\0"]
            .iter()
            // The last field before a name is a check sum that nobody uses.
            .map(|name| text.find(&format!("00000000{name}")).expect(name))
            .collect();
        assert!(at.is_sorted(), "{at:?}");
        assert_eq!(text.matches("usr/bin/x").count(), 1);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.tree(Path::new("/nowhere/at/all")).is_err());
    }
}
