//! Everything the engine knows in memory, and how applied records change it.
//!
//! **Invariant:** what survives a crash is changed only here, by records, in journal order; a live commit and the
//! replay after a crash take the same way.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tidegate_core::{
    clock::Clock,
    event::{Event, FingerprintKey, Reader},
    fault::{Fault, Origin, Result},
    names::{GroupName, StreamName},
    notice::{Notice, Notices},
    store::OnFailure,
};

use super::{
    body::{self, AppendHead, DeadHead, DeadMove, Settle},
    frame::{Kind, Record},
    group::{Group, GroupDecl, GroupInner},
    journal::JournalReader,
    seen::{Mark, RunDir},
    segment::{Footer, Lsn},
    stats::Stats,
    stream::{OpenIndex, Stream, StreamDecl, unwrap_moved},
};
use crate::disk::Disk;

/// Reports of damage that are kept; the first ones tell where it started.
const DAMAGE_MAX: usize = 1000;

/// Streams, groups and control state by name and number.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) streams: BTreeMap<u32, Arc<Stream>>,
    pub(crate) stream_names: HashMap<StreamName, Arc<Stream>>,
    pub(crate) groups: BTreeMap<u32, Arc<Group>>,
    pub(crate) group_names: HashMap<GroupName, Arc<Group>>,
    pub(crate) states: BTreeMap<String, Vec<u8>>,
    pub(crate) next_id: u32,
    pub(crate) applied: Lsn,
}

impl Registry {
    pub(crate) fn add_stream(&mut self, stream: Arc<Stream>) {
        self.next_id = self.next_id.max(stream.id + 1);
        self.stream_names.insert(stream.name.clone(), Arc::clone(&stream));
        self.streams.insert(stream.id, stream);
    }

    pub(crate) fn add_group(&mut self, group: Arc<Group>) {
        self.next_id = self.next_id.max(group.id + 1);
        group.stream.groups.write().push(Arc::clone(&group));
        self.group_names.insert(group.name.clone(), Arc::clone(&group));
        self.groups.insert(group.id, group);
    }

    pub(crate) fn remove_group(&mut self, id: u32) {
        let Some(group) = self.groups.remove(&id) else { return };
        group.inner.lock().removed = true;
        group.stream.groups.write().retain(|other| other.id != id);
        self.group_names.remove(&group.name);
    }
}

/// Shared by the committer, the upkeep and all callers.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    /// Free bytes of the disk under which publishes are refused.
    pub(crate) disk_reserve: u64,
    pub(crate) clock: Clock,
    pub(crate) notices: Notices,
    /// Boot-unique number: leases of an earlier life do not match.
    pub(crate) owner: u64,
    pub(crate) key: FingerprintKey,
    pub(crate) registry: RwLock<Registry>,
    pub(crate) reader: Arc<JournalReader>,
    pub(crate) open: OpenIndex,
    pub(crate) runs: RunDir,
    pub(crate) next_run: AtomicU64,
    /// Everything before this place is applied.
    pub(crate) applied: AtomicU64,
    pub(crate) failed: RwLock<Option<String>>,
    pub(crate) refusing: RwLock<Option<String>>,
    pub(crate) is_refusing: AtomicBool,
    pub(crate) damage: Mutex<Vec<String>>,
    pub(crate) stats: Stats,
}

impl State {
    pub(crate) fn stream(&self, name: &StreamName) -> Result<Arc<Stream>> {
        let registry = self.registry.read();
        let found = registry.stream_names.get(name).map(Arc::clone);
        found.ok_or_else(|| Fault::missing(format!("there is no stream {:?}", name.as_str())))
    }

    pub(crate) fn group(&self, name: &GroupName) -> Result<Arc<Group>> {
        let registry = self.registry.read();
        let found = registry.group_names.get(name).map(Arc::clone);
        found.ok_or_else(|| Fault::missing(format!("there is no group {:?}", name.as_str())))
    }

    pub(crate) fn dead_stream(&self, name: &StreamName) -> Result<Arc<Stream>> {
        self.stream(&name.dead_letters()).map_err(|_| Fault::missing(format!("there is no stream {:?}", name.as_str())))
    }

    pub(crate) fn stream_name(&self, id: u32) -> Option<StreamName> {
        self.registry.read().streams.get(&id).map(|stream| stream.name.clone())
    }

    /// Remembers damage and tells about it.
    pub(crate) fn report_damage(&self, place: &str, what: &str) {
        let line = format!("{place}: {what}");
        {
            let mut damage = self.damage.lock();
            if damage.len() >= DAMAGE_MAX || damage.contains(&line) {
                return;
            }
            damage.push(line);
        }
        self.notices.emit(&Notice::StoreDamaged { place: place.to_owned(), what: what.to_owned() });
    }

    /// Says that nothing can be written any more.
    pub(crate) fn fail(&self, reason: &str) {
        let mut failed = self.failed.write();
        if failed.is_none() {
            *failed = Some(reason.to_owned());
            self.notices.emit(&Notice::StoreFailed { reason: reason.to_owned() });
        }
    }

    pub(crate) fn check_failed(&self) -> Result<()> {
        match &*self.failed.read() {
            None => Ok(()),
            Some(reason) => Err(Fault::unavailable(Origin::Store, format!("the store takes nothing more: {reason}"))),
        }
    }

    /// Starts or stops refusing publishes.
    pub(crate) fn refuse(&self, reason: Option<String>) {
        let mut refusing = self.refusing.write();
        match (&*refusing, &reason) {
            (None, Some(reason)) => self.notices.emit(&Notice::StoreRefusing { reason: reason.clone() }),
            (Some(_), None) => self.notices.emit(&Notice::StoreRecovered {}),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.is_refusing.store(reason.is_some(), Ordering::Release);
        *refusing = reason;
    }

    /// Carries out one record that is durable. `replay` is true after a crash.
    pub(crate) fn apply(&self, at: Lsn, record: &Record, replay: bool) -> Result<()> {
        match record.kind {
            Kind::Append => self.apply_append(at, &record.body, replay),
            Kind::Dead => self.apply_dead(at, &record.body),
            Kind::Moved => self.apply_moved(at, record),
            Kind::Settle => {
                let settle = Settle::read(&record.body)?;
                self.with_group(settle.group, at, |group| {
                    let block = group.spec.read().on_failure == OnFailure::Block;
                    group.inner.lock().settle(&settle, block);
                });
                Ok(())
            }
            Kind::Mark => {
                let (group, seqs) = body::read_numbers(&record.body)?;
                self.with_each(
                    group,
                    at,
                    seqs,
                    |inner, seq| if replay { inner.recall_claim(seq) } else { inner.mark(seq) },
                );
                Ok(())
            }
            Kind::Drop => {
                let (group, numbers) = body::read_numbers(&record.body)?;
                if let [from, to, lent @ ..] = &numbers[..] {
                    self.with_group(group, at, |group| {
                        group.inner.lock().drop_range(*from, *to, lent);
                    });
                }
                Ok(())
            }
            Kind::Seek => {
                let (group, numbers) = body::read_numbers(&record.body)?;
                if let [to, high, ref again @ ..] = numbers[..] {
                    let again = if let [before, at] = again { Some((*before, at.cast_signed())) } else { None };
                    self.with_group(group, at, |group| group.inner.lock().seek(to, high, again));
                }
                Ok(())
            }
            Kind::LetGo => {
                let (group, seqs, ..) = body::read_let_go(&record.body)?;
                self.with_each(group, at, seqs, GroupInner::let_go);
                Ok(())
            }
            Kind::Forget => {
                let (group, fingerprint, now) = body::read_forget(&record.body)?;
                let mut forgotten = Ok(true);
                self.with_group(group, at, |group| {
                    if let Some(seen) = &mut group.inner.lock().ledger {
                        forgotten = seen.forget(fingerprint, now);
                    }
                });
                forgotten.map(drop)
            }
            Kind::Clean => {
                let (group, numbers) = body::read_numbers(&record.body)?;
                self.with_group(group, at, |group| {
                    if let (Some(seen), [before]) = (&mut group.inner.lock().ledger, &numbers[..]) {
                        seen.forget_before(i64::try_from(*before).unwrap_or(i64::MAX));
                    }
                });
                Ok(())
            }
            Kind::DeadMove => self.apply_dead_move(at, &record.body),
            Kind::Stream | Kind::Group | Kind::Ungroup | Kind::State => self.apply_registry(at, record),
            Kind::Start | Kind::End | Kind::Footer => Ok(()),
        }
    }

    fn with_group(&self, id: u32, at: Lsn, work: impl FnOnce(&Group)) {
        let group = self.registry.read().groups.get(&id).map(Arc::clone);
        let Some(group) = group else { return };
        if group.inner.lock().applied >= at {
            return;
        }
        work(&group);
        let mut inner = group.inner.lock();
        inner.applied = at;
        group.show_passed(&inner);
    }

    fn with_each(&self, id: u32, at: Lsn, seqs: Vec<u64>, work: impl Fn(&mut GroupInner, u64)) {
        self.with_group(id, at, |group| {
            let mut inner = group.inner.lock();
            seqs.into_iter().for_each(|seq| work(&mut inner, seq));
        });
    }

    fn apply_append(&self, at: Lsn, body: &bytes::Bytes, replay: bool) -> Result<()> {
        let mut read = Reader { bytes: body.clone() };
        let head = AppendHead::read(&mut read)?;
        let stream = self.registry.read().streams.get(&head.stream).map(Arc::clone);
        let Some(stream) = stream else { return Ok(()) };
        let mut inner = stream.inner.lock();
        stream.applied(&mut inner, head.seq, at);
        if let Some(group) = head.for_group {
            drop(inner);
            self.with_group(group, at, |group| group.inner.lock().send_back(head.seq, at));
            inner = stream.inner.lock();
        }
        if at <= inner.applied {
            return Ok(());
        }
        inner.applied = at;
        if replay
            && head.for_group.is_none()
            && let Some(seen) = &mut inner.dedupe
        {
            let event = Event::decode(read.bytes)?;
            // By the key of today: what a key that has changed since would say no longer counts.
            let key = stream.dedupe_key().unwrap_or_default();
            let fingerprint = key.fingerprint(&self.key, &event);
            seen.insert(fingerprint, Mark { number: head.seq, at: head.accepted_at.as_millis() });
        }
        Ok(())
    }

    fn apply_dead(&self, at: Lsn, body: &bytes::Bytes) -> Result<()> {
        let mut read = Reader { bytes: body.clone() };
        let head = DeadHead::read(&mut read)?;
        let stream = self.registry.read().streams.get(&head.stream).map(Arc::clone);
        if let Some(stream) = stream {
            let mut inner = stream.inner.lock();
            stream.applied(&mut inner, head.seq, at);
            if at > inner.applied {
                inner.applied = at;
                let event = Event::decode(read.bytes)?;
                if let Some(dead) = &mut inner.dead {
                    dead.bury(&head, &event.kind, at);
                }
            }
        }
        self.with_group(head.group, at, |group| group.inner.lock().bury(head.origin_seq));
        Ok(())
    }

    fn apply_moved(&self, at: Lsn, record: &Record) -> Result<()> {
        let (_, body) = unwrap_moved(record.kind, &record.body)?;
        let Some((stream, seq)) = body::peek_seq(&body) else { return Ok(()) };
        if let Some(stream) = self.registry.read().streams.get(&stream) {
            let mut inner = stream.inner.lock();
            inner.moved.insert(seq, at);
            if let Some(entry) = inner.dead.as_mut().and_then(|dead| dead.entries.get_mut(&seq)) {
                entry.at = at;
            }
        }
        Ok(())
    }

    fn apply_dead_move(&self, at: Lsn, body: &bytes::Bytes) -> Result<()> {
        let step = DeadMove::read(body)?;
        let stream = self.registry.read().streams.get(&step.stream).map(Arc::clone);
        let Some(stream) = stream else { return Ok(()) };
        let mut inner = stream.inner.lock();
        if at > inner.applied {
            inner.applied = at;
            if let Some(dead) = &mut inner.dead {
                dead.moved(&step);
            }
        }
        Ok(())
    }

    fn apply_registry(&self, at: Lsn, record: &Record) -> Result<()> {
        let mut registry = self.registry.write();
        if at <= registry.applied {
            return Ok(());
        }
        registry.applied = at;
        let unreadable = |_| Fault::corrupt("declaration in the journal is not readable");
        match record.kind {
            Kind::Stream => {
                let decl: StreamDecl = postcard::from_bytes(&record.body).map_err(unreadable)?;
                match registry.streams.get(&decl.id) {
                    Some(stream) => stream.respec(decl.spec()),
                    None => registry.add_stream(Arc::new(Stream::new(decl.id, decl.spec()))),
                }
            }
            Kind::Group => {
                let decl: GroupDecl = postcard::from_bytes(&record.body).map_err(unreadable)?;
                let Some(stream) = registry.streams.get(&decl.stream).map(Arc::clone) else { return Ok(()) };
                let spec = decl.spec(&stream);
                match registry.groups.get(&decl.id) {
                    Some(group) => group.respec(spec),
                    None => registry.add_group(Arc::new(Group::new(decl.id, spec, stream, decl.start))),
                }
            }
            Kind::Ungroup => {
                let (id, _) = body::read_numbers(&record.body)?;
                registry.remove_group(id);
            }
            Kind::State => {
                let (key, value): (String, Option<Vec<u8>>) = postcard::from_bytes(&record.body).map_err(unreadable)?;
                match value {
                    Some(value) => registry.states.insert(key, value),
                    None => registry.states.remove(&key),
                };
            }
            Kind::Start | Kind::End | Kind::Append | Kind::Settle | Kind::Dead | Kind::DeadMove => {}
            Kind::Mark | Kind::LetGo | Kind::Forget | Kind::Clean | Kind::Seek | Kind::Drop => {}
            Kind::Moved | Kind::Footer => {}
        }
        Ok(())
    }
}

/// Takes a record into the index of its segment.
pub(crate) fn index_record(footer: &mut Footer, at: Lsn, record: &Record) {
    let Ok((kind, body)) = unwrap_moved(record.kind, &record.body) else { return };
    if !matches!(kind, Kind::Append | Kind::Dead) {
        return;
    }
    let Some((stream, seq)) = body::peek_seq(&body) else { return };
    if record.kind == Kind::Moved {
        footer.moved.push((stream, seq, at.offset() as u32));
        return;
    }
    // Both heads carry the time as their third number.
    let mut read = Reader { bytes: body };
    let when = (0..3).map(|_| read.number().unwrap_or_default()).last().unwrap_or_default();
    footer.span(stream).add(seq, at.offset(), record.len as u64, i64::try_from(when).unwrap_or(i64::MAX));
}
