//! A disk that loses, tears and refuses what a seed says.
//!
//! Every file and the directory have two images: what programs see, and what is durable. A write is seen at once and
//! durable after a sync; a power cut decides sector by sector, for every write that was not synced, whether it survives.
//! A failed sync marks its writes clean, as Linux does: the next sync succeeds without them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::embedded::{DirectoryGuard, Vfs, VfsFile};

use crate::random::Random;

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An input or output error.
    Io,
    /// No space left.
    Full,
    /// A write or read stops halfway; other calls are interrupted by nothing.
    Short,
    /// The call is interrupted and may be repeated.
    Interrupted,
}

/// Which calls fail.
#[derive(Debug, Clone, Copy)]
struct Plan {
    at: u64,
    fault: Fault,
    sticky: bool,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Not yet synced, in order.
    writes: Vec<Write>,
}

#[derive(Debug, Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl Write {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, bytes) => put(image, *offset, bytes),
            Self::Length(length) if image.len() < *length => image.resize(*length, 0),
            Self::Length(_) => {}
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: HashMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    next_file: u64,
    calls: u64,
    plan: Option<Plan>,
    off_at: Option<u64>,
    space: Option<usize>,
    locked: bool,
}

/// A simulated directory. Clones are the same directory.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    disk: Arc<Mutex<Disk>>,
}

fn power_is_off() -> io::Error {
    io::Error::other("power is off")
}

/// What a call is told before it does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fine,
    Halfway,
}

impl Disk {
    /// Counts a call and lets it fail if that is the plan.
    fn call(&mut self) -> io::Result<Mood> {
        self.calls += 1;
        if self.off_at.is_some_and(|at| self.calls > at) {
            return Err(power_is_off());
        }
        let Some(Plan { at, fault, sticky }) = self.plan else { return Ok(Mood::Fine) };
        if self.calls != at && !(sticky && self.calls > at) {
            return Ok(Mood::Fine);
        }
        match fault {
            Fault::Io => Err(io::Error::other("injected")),
            Fault::Full => Err(io::ErrorKind::StorageFull.into()),
            Fault::Interrupted if sticky => Ok(Mood::Fine),
            Fault::Interrupted => Err(io::ErrorKind::Interrupted.into()),
            Fault::Short => Ok(Mood::Halfway),
        }
    }

    fn used(&self) -> usize {
        self.files.values().map(|file| file.seen.len()).sum()
    }

    fn check_space(&self, growth: usize) -> io::Result<()> {
        if self.space.is_some_and(|space| self.used() + growth > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Forgets files that nobody can reach; open ones live as long as they have a name here.
    fn collect(&mut self) {
        let reachable = |id: &u64| {
            self.names.values().chain(self.durable_names.values()).any(|named| named == id)
        };
        let gone: Vec<u64> = self.files.keys().filter(|id| !reachable(id)).copied().collect();
        for id in gone {
            self.files.remove(&id);
        }
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Lets the call that is number `at` from now fail, or all from it on.
    pub fn fail_call(&self, at: u64, fault: Fault, sticky: bool) {
        let mut disk = self.disk();
        let at = disk.calls + at;
        disk.plan = Some(Plan { at, fault, sticky });
    }

    /// Ends all failures that were planned.
    pub fn heal(&self) {
        self.disk().plan = None;
    }

    /// Cuts the power after `calls` more calls.
    pub fn power_off_after(&self, calls: u64) {
        let mut disk = self.disk();
        disk.off_at = Some(disk.calls + calls);
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        let disk = self.disk();
        disk.off_at.is_some_and(|at| disk.calls > at)
    }

    /// Lets the files have at most `bytes` together.
    pub fn limit_space(&self, bytes: Option<usize>) {
        self.disk().space = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> usize {
        self.disk().used()
    }

    /// The disk as a process finds it that starts after another was killed: everything that was written is seen.
    #[must_use]
    pub fn killed(&self) -> Self {
        let disk = self.disk();
        let copy = Disk {
            files: disk.files.clone(),
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            name_changes: disk.name_changes.clone(),
            next_file: disk.next_file,
            space: disk.space,
            ..Disk::default()
        };
        Self { disk: Arc::new(Mutex::new(copy)) }
    }

    /// The disk as it is found after a power cut.
    #[must_use]
    pub fn cut(&self, random: &mut Random) -> Self {
        let disk = self.disk();
        let mut copy = Disk {
            names: disk.durable_names.clone(),
            next_file: disk.next_file,
            space: disk.space,
            ..Disk::default()
        };
        let keep = random.below(5);
        for change in &disk.name_changes {
            if survives(keep, random) {
                change.apply(&mut copy.names);
            }
        }
        copy.durable_names.clone_from(&copy.names);
        let mut named: Vec<u64> = copy.names.values().copied().collect();
        named.sort_unstable();
        for id in named {
            let Some(file) = disk.files.get(&id) else { continue };
            let mut image = file.durable.clone();
            for write in &file.writes {
                tear(write, &mut image, keep, random);
            }
            let file = FileState { seen: image.clone(), durable: image, writes: Vec::new() };
            copy.files.insert(id, file);
        }
        Self { disk: Arc::new(Mutex::new(copy)) }
    }

    /// Names of all files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }

    /// Changes a file's bytes behind everybody's back, durably.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let id = disk.names.get(name).copied();
        if let Some(file) = id.and_then(|id| disk.files.get_mut(&id)) {
            edit(&mut file.seen);
            file.durable.clone_from(&file.seen);
            file.writes.clear();
        }
    }

    /// Removes a file behind everybody's back, durably.
    pub fn delete(&self, name: &str) {
        let mut disk = self.disk();
        disk.names.remove(name);
        disk.durable_names.remove(name);
    }
}

/// 0: nothing survives, 1: everything, else one half.
fn survives(keep: u64, random: &mut Random) -> bool {
    match keep {
        0 => false,
        1 => true,
        _ => random.chance(1, 2),
    }
}

/// What a power cut leaves of one write.
fn tear(write: &Write, image: &mut Vec<u8>, keep: u64, random: &mut Random) {
    match write {
        Write::Bytes(offset, bytes) if keep >= 3 => {
            let mut from = 0;
            while from < bytes.len() {
                let sector_end = (offset + from) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                let to = (sector_end - offset).min(bytes.len());
                if survives(keep, random) {
                    put(image, offset + from, &bytes[from..to]);
                }
                from = to;
            }
        }
        _ if survives(keep, random) => write.apply(image),
        _ => {}
    }
}

#[derive(Debug)]
struct Guard(SimDisk);

impl DirectoryGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.disk().locked = false;
    }
}

impl Vfs for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.call()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.disk();
        disk.call()?;
        let id = disk.next_file;
        disk.next_file += 1;
        disk.files.insert(id, FileState::default());
        let change = NameChange::Create(name.to_owned(), id);
        change.apply(&mut disk.names);
        disk.name_changes.push(change);
        disk.collect();
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.disk();
        disk.call()?;
        let id = disk.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        change.apply(&mut disk.names);
        disk.name_changes.push(change);
        disk.collect();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        if !disk.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove(name.to_owned());
        change.apply(&mut disk.names);
        disk.name_changes.push(change);
        disk.collect();
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        disk.durable_names = disk.names.clone();
        disk.name_changes.clear();
        disk.collect();
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn DirectoryGuard>> {
        let mut disk = self.disk();
        if std::mem::replace(&mut disk.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Guard(self.clone())))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl VfsFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk.disk();
        let mood = disk.call();
        let halfway = matches!(mood, Ok(Mood::Halfway));
        // What fails may have been written in part.
        let length = if halfway || mood.is_err() { bytes.len() / 2 } else { bytes.len() };
        let bytes = &bytes[..length.max(usize::from(halfway))];
        let offset = usize::try_from(offset).expect("small files");
        let seen = disk.files.get(&self.id).map_or(0, |file| file.seen.len());
        if !disk.is_off_now() {
            disk.check_space((offset + bytes.len()).saturating_sub(seen))?;
            let file = disk.files.entry(self.id).or_default();
            put(&mut file.seen, offset, bytes);
            file.writes.push(Write::Bytes(offset, bytes.to_vec()));
        }
        mood.map(|_| bytes.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk.disk();
        let halfway = disk.call()? == Mood::Halfway;
        let offset = usize::try_from(offset).expect("small files");
        let Some(file) = disk.files.get(&self.id) else { return Ok(0) };
        let rest = file.seen.get(offset..).unwrap_or_default();
        let mut length = rest.len().min(into.len());
        if halfway {
            length = length.div_ceil(2);
        }
        into[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        let mood = disk.call();
        let off = disk.is_off_now();
        let file = disk.files.entry(self.id).or_default();
        match mood {
            Ok(_) => {
                for write in std::mem::take(&mut file.writes) {
                    write.apply(&mut file.durable);
                }
                Ok(())
            }
            Err(error) => {
                if !off {
                    file.writes.clear();
                }
                Err(error)
            }
        }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.call()?;
        let bytes = usize::try_from(bytes).expect("small files");
        let seen = disk.files.get(&self.id).map_or(0, |file| file.seen.len());
        disk.check_space(bytes.saturating_sub(seen))?;
        let file = disk.files.entry(self.id).or_default();
        let write = Write::Length(bytes);
        write.apply(&mut file.seen);
        file.writes.push(write);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut disk = self.disk.disk();
        disk.call()?;
        Ok(disk.files.get(&self.id).map_or(0, |file| file.seen.len() as u64))
    }
}

impl Disk {
    fn is_off_now(&self) -> bool {
        self.off_at.is_some_and(|at| self.calls > at)
    }
}
