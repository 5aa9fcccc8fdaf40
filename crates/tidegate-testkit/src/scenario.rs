//! Simulated runs: a seed is a life of a store on a bad disk, judged operation by operation against a reference.
//!
//! Nothing waits and nothing runs beside it: the store is stepped, the clock stands still until it is moved, the disk
//! is [`SimDisk`]. So one seed gives one run, and a run that fails can be looked at again.

mod expect;
mod finish;
mod model;
mod steps;
mod world;

use std::{future::Future, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tidegate_core::{clock::Clock, fault::Fault, store::Store};

use self::world::{Judged, World};
use crate::sim_disk::{DiskFault, SimDisk};

/// Opens a stepped store on a disk.
pub type Open = dyn Fn(&SimDisk, &Clock) -> Result<Arc<dyn Store>, Fault> + Sync;

/// Takes the answer of a stepped store, which never waits.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a stepped store answers at once")
}

/// What a run has to live through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Orderly restarts only.
    Calm,
    /// The process dies.
    Kills,
    /// The machine loses power, in the middle of anything, also while it recovers.
    Outages,
    /// Writes and syncs fail.
    Errors,
    /// The disk is full for a while.
    Full,
    /// Bits flip.
    Flips,
    /// Everything but flipped bits.
    Storm,
}

impl Weather {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Calm, Self::Kills, Self::Outages, Self::Errors, Self::Full, Self::Flips, Self::Storm];

    /// The weather of a seed.
    pub fn of(seed: u64) -> Self {
        Self::ALL[(seed % 7) as usize]
    }

    fn has(self, one: Self) -> bool {
        self == one || self == Self::Storm && !matches!(one, Self::Flips | Self::Calm)
    }
}

/// What a run did, so that a suite can tell that its weather really happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survived {
    /// Operations that were asked for.
    pub operations: u64,
    /// Openings after the first one.
    pub reopenings: u64,
    /// Times that the store refused to go on until it was opened again.
    pub failures: u64,
    /// Runs whose flipped bits the store reported.
    pub reported: u64,
    /// Runs whose flipped bits hit nothing that matters.
    pub harmless: u64,
}

impl Survived {
    /// Adds up.
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.reopenings += other.reopenings;
        self.failures += other.failures;
        self.reported += other.reported;
        self.harmless += other.harmless;
    }
}

/// Lives through the run of a seed; an error is a broken promise with what led to it.
pub fn run(seed: u64, open: &Open) -> Result<Survived, String> {
    let weather = Weather::of(seed);
    let mut world = World::new(seed, open).map_err(|what| format!("seed {seed} ({weather:?}): {what}"))?;
    let mut survived = Survived::default();
    live(&mut world, weather, &mut survived).map(|()| survived).map_err(|what| {
        let from = world.log.len().saturating_sub(80);
        let log = world.log[from..].join("\n  ");
        format!("seed {seed} ({weather:?}), after operation {}: {what}\n  {log}", world.log.len())
    })
}

fn live(world: &mut World<'_>, weather: Weather, survived: &mut Survived) -> Judged {
    steps::set_up(world)?;
    let mut publisher = steps::Publisher::default();
    let length = world.rng.u64(30..200);
    for _ in 0..length {
        survived.operations += 1;
        trouble(world, weather, survived)?;
        steps::step(world, &mut publisher)?;
        if world.is_failed() || world.disk.is_off() {
            survived.failures += 1;
            survived.reopenings += 1;
            world.check_refuses()?;
            recover(world)?;
        }
        match world.rng.u8(0..40) {
            0 | 1 => world.check_everything()?,
            _ => world.probe()?,
        }
    }
    world.disk.make_room();
    world.disk.disarm();
    if weather == Weather::Flips {
        return finish::flip(world, survived);
    }
    finish::drain(world)?;
    survived.reopenings += 1;
    world.restart()?;
    world.check_everything()
}

/// Lets something happen, or prepares it.
fn trouble(world: &mut World<'_>, weather: Weather, survived: &mut Survived) -> Judged {
    if world.rng.u8(0..30) == 0 {
        survived.reopenings += 1;
        let dies = weather.has(Weather::Kills) && world.rng.bool();
        return if dies { world.kill() } else { world.restart() };
    }
    if weather.has(Weather::Outages) {
        match world.rng.u8(0..25) {
            0 => world.disk.arm(DiskFault::PowerOff, world.rng.u64(0..30)),
            1 => {
                survived.reopenings += 1;
                let twice = world.rng.bool();
                return world.crash(twice);
            }
            _ => {}
        }
    }
    if weather.has(Weather::Errors) && world.rng.u8(0..20) == 0 {
        let fault = DiskFault::random(&mut world.rng);
        if fault != DiskFault::PowerOff {
            world.disk.arm(fault, world.rng.u64(0..10));
        }
    }
    if weather.has(Weather::Full) {
        match world.rng.u8(0..25) {
            0 => world.disk.fill(world.rng.u64(0..200_000), None),
            1 => world.disk.fill(world.rng.u64(0..20_000), Some(world.rng.u64(1..5))),
            2..5 => world.disk.make_room(),
            _ => {}
        }
    }
    if weather == Weather::Storm && world.rng.u8(0..60) == 0 {
        world.disk.slow_down(world.clock.clone(), Duration::from_millis(world.rng.u64(0..300)));
    }
    Ok(())
}

/// Opens a store again that failed or lost its power.
fn recover(world: &mut World<'_>) -> Judged {
    if world.disk.is_off() || world.rng.bool() {
        let twice = world.rng.u8(0..3) == 0;
        world.crash(twice)
    } else {
        world.kill()
    }
}
