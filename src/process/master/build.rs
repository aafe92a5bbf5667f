//! The program that children are started from: found by its name at the start and at each reload,
//! and kept open, so that whatever becomes of the file, all processes of a build are the same.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// All builds that processes may still be started from.
#[derive(Debug)]
pub(super) struct Builds {
    /// What is looked for: the program that was given, or the master's own.
    name: OsString,
    /// What the program is told that it is called.
    arg0: Option<OsString>,
    opened: BTreeMap<u32, Build>,
}

/// A program, as it was when it was found.
#[derive(Debug)]
struct Build {
    path: PathBuf,
    /// It is run through this descriptor, where it can be.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    file: Option<std::os::fd::OwnedFd>,
}

impl Builds {
    /// The first build, which has the number 0: the program that was given, or else the one that
    /// this process runs.
    pub(super) fn new(program: Option<&Path>) -> Self {
        let (name, arg0, first) = match program {
            Some(program) => {
                let name = program.as_os_str().to_owned();
                // One that can't be found is an error when it is to be started.
                let first = Build::find(&name).unwrap_or_else(|_| Build::at(program.into()));
                (name.clone(), Some(name), first)
            }
            None => (own_name(), env::args_os().next(), Build::at(own_program())),
        };
        Self { name, arg0, opened: BTreeMap::from([(0, first)]) }
    }

    /// Finds the program anew, and keeps it under this number.
    pub(super) fn open(&mut self, build: u32) -> io::Result<()> {
        let found = Build::find(&self.name).map_err(|error| {
            let name = Path::new(&self.name).display();
            io::Error::new(error.kind(), format!("{name}: {error}"))
        })?;
        self.opened.insert(build, found);
        Ok(())
    }

    /// Lets all go but this one.
    pub(super) fn keep(&mut self, build: u32) {
        self.opened.retain(|number, _| *number == build);
    }

    /// A command that runs a build, and the path to call it by.
    pub(super) fn command(&self, build: u32) -> io::Result<(Command, PathBuf)> {
        let gone = || io::Error::other("its program is not kept any more");
        let build = self.opened.get(&build).ok_or_else(gone)?;
        let mut command = Command::new(build.runnable());
        if let Some(name) = &self.arg0 {
            std::os::unix::process::CommandExt::arg0(&mut command, name);
        }
        Ok((command, build.path.clone()))
    }
}

impl Build {
    fn at(path: PathBuf) -> Self {
        Self {
            path,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            file: None,
        }
    }

    /// Looks where a shell would look.
    fn find(name: &OsStr) -> io::Result<Self> {
        let path = Path::new(name);
        if path.components().count() > 1 || path.is_absolute() {
            return Self::open(path.into());
        }
        let folders = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&folders)
            .map(|folder| folder.join(path))
            .find(|path| path.is_file())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is nowhere in PATH"))?;
        Self::open(found)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn open(path: PathBuf) -> io::Result<Self> {
        use std::{io::Read, os::fd::AsRawFd};

        use rustix::fs::{Mode, OFlags, open};

        let file = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // A script is read by its interpreter, by the path that it was run by; and this one is
        // closed by then.
        let mut start = Vec::new();
        let readable = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let is_script = readable
            .and_then(|file| file.take(2).read_to_end(&mut start))
            .is_ok_and(|_| start == b"#!");
        Ok(Self { path, file: Some(file).filter(|_| !is_script) })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn open(path: PathBuf) -> io::Result<Self> {
        path.metadata()?;
        Ok(Self::at(path))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn runnable(&self) -> PathBuf {
        use std::os::fd::AsRawFd;

        match &self.file {
            // The child has the same descriptors until the program runs.
            Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            None => self.path.clone(),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn runnable(&self) -> PathBuf {
        self.path.clone()
    }
}

/// The program that this process runs, even where its file was replaced or removed since.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn own_program() -> PathBuf {
    env::current_exe().unwrap_or_else(|_| own_name().into())
}

/// By what name this program is found again: the one that it was started by, so that a symbolic
/// link in it leads to what is newest then. Where that name is not its own, its path.
fn own_name() -> OsString {
    let name = env::args_os().next().unwrap_or_default();
    let path = Path::new(&name);
    let found = if path.components().count() > 1 {
        // Whatever the working directory will be.
        std::path::absolute(path).ok()
    } else {
        Build::find(&name).ok().map(|build| build.path)
    };
    let own = env::current_exe();
    match (found, own) {
        (Some(found), Ok(own)) if is_same(&found, &own) => found.into(),
        (_, Ok(own)) => own.into(),
        (Some(found), Err(_)) => found.into(),
        (None, Err(_)) => name,
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn runs(builds: &Builds, build: u32) -> String {
        let (mut command, _) = builds.command(build).unwrap();
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn a_build_stays_what_it_was_when_its_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::copy("/bin/echo", &path).unwrap();
        let mut builds = Builds::new(Some(&path));
        fs::remove_file(&path).unwrap();
        fs::copy("/bin/pwd", &path).unwrap();
        builds.open(1).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(runs(&builds, 0), "\n", "an echo of nothing");
        assert!(runs(&builds, 1).starts_with('/'));
        assert!(builds.open(2).unwrap_err().to_string().contains("program"), "it names the file");
        builds.keep(1);
        assert!(builds.command(0).is_err());
        assert!(runs(&builds, 1).starts_with('/'));
    }

    #[test]
    fn a_script_is_run_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        fs::write(&path, "#!/bin/sh\necho a script\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(runs(&Builds::new(Some(&path)), 0), "a script\n");
    }

    #[test]
    fn a_name_without_a_folder_is_looked_for_in_path() {
        assert_eq!(runs(&Builds::new(Some(Path::new("echo"))), 0), "\n");
        let mut builds = Builds::new(Some(Path::new("no-program-of-this-name")));
        assert!(builds.open(1).unwrap_err().to_string().contains("nowhere in PATH"));
    }

    #[test]
    fn a_program_finds_itself() {
        assert!(is_same(Path::new(&own_name()), &env::current_exe().unwrap()));
    }
}
