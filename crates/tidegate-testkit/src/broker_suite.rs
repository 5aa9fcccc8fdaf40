//! The suite that says what the seam to an engine means. Every engine passes all of it, restarts included.
//!
//! A case gets a fresh engine and speaks to it through [`Audited`], which checks the accounting of every group after
//! every step. Cases that ask for a promise the engine does not make are skipped by name.

mod after;
mod append;
mod audited;
mod case;
mod claim;
mod dead;
mod desk;
mod fencing;
mod group;
mod ledger;
mod order;
mod priority;
mod range;
mod read;
mod restart;
mod retention;
mod schedule;
mod seek;
mod settle;
mod state;
mod whereabouts;

use std::{collections::BTreeSet, future::Future, pin::Pin};

use tidegate_core::store::{Broker as _, Promises};

pub use self::{
    audited::{Audited, Seen, check_group, check_growth},
    case::{Case, Subject},
};

type Run = fn(Case) -> Pin<Box<dyn Future<Output = ()>>>;

/// A promise that a case stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Order,
    Durable,
    OrderAndDurable,
    AtomicSettle,
    Wakes,
    After,
    AfterAndDurable,
    AfterAndOrder,
    AfterAndWakes,
    Priorities,
    PrioritiesAndDurable,
    PrioritiesAndOrder,
}

impl Needs {
    fn met(self, promises: &Promises) -> bool {
        match self {
            Self::Nothing => true,
            Self::Order => promises.ordered_by_key,
            Self::Durable => promises.durable,
            Self::OrderAndDurable => promises.ordered_by_key && promises.durable,
            Self::AtomicSettle => promises.atomic_settle,
            Self::Wakes => promises.wakes,
            Self::After => promises.dependencies,
            Self::AfterAndDurable => promises.dependencies && promises.durable,
            Self::AfterAndOrder => promises.dependencies && promises.ordered_by_key,
            Self::AfterAndWakes => promises.dependencies && promises.wakes,
            Self::Priorities => promises.priorities,
            Self::PrioritiesAndDurable => promises.priorities && promises.durable,
            Self::PrioritiesAndOrder => promises.priorities && promises.ordered_by_key,
        }
    }
}

macro_rules! cases {
    ($($file:ident { $($case:ident $(: $needs:ident)?),+ $(,)? })+) => {
        const CASES: &[(&str, Needs, Run)] = &[$($(
            (concat!(stringify!($file), "::", stringify!($case)), cases!(@needs $($needs)?), |case| Box::pin($file::$case(case))),
        )+)+];
    };
    (@needs) => { Needs::Nothing };
    (@needs $needs:ident) => { Needs::$needs };
}

cases! {
    append {
        positions_grow, streams_do_not_mix, nothing_is_appended_to_nowhere, events_come_back_as_they_were,
        large_events_and_batches_fit, the_largest_batch_is_whole_or_refused, answers_belong_to_their_events,
        a_repeat_gets_the_first_position, a_repeat_inside_a_batch_is_a_repeat, the_window_ends,
        the_window_holds_its_entries, a_window_may_have_a_key_of_its_own, a_key_of_its_own_outlives_a_restart: Durable, without_a_window_repeats_are_events, a_full_backlog_refuses_and_recovers,
        shedding_drops_the_oldest_and_counts_it,
    }
    read { pages_follow_each_other, the_end_is_empty, a_page_has_a_limit }
    claim {
        lends_in_order_and_never_twice, a_first_delivery_is_fresh, groups_are_lent_everything_each,
        one_claim_has_limits, one_claim_has_a_limit_of_bytes, a_lease_that_ran_out_counts_as_a_crash,
        a_lease_that_ran_out_is_waiting,
        settled_in_time_never_comes_back, an_empty_group_says_when_to_come_again, wait_returns_for_work: Wakes,
        the_age_is_that_of_the_oldest_that_may_run, claimers_do_not_get_in_each_others_way,
    }
    fencing {
        a_late_settle_is_refused_and_counted, an_expired_lease_is_settled_or_lost_never_both,
        a_second_settle_is_refused, one_token_twice_in_one_commit_counts_once, the_living_are_settled_beside_the_lost,
        made_up_tokens_are_lost, a_lost_settle_publishes_nothing, a_removed_group_settles_nothing,
        a_restart_loses_every_lease: Durable, extend_moves_the_end_of_a_lease, an_extended_lease_still_ends,
    }
    settle {
        done_is_final, a_skip_is_done_and_not_remembered, release_spends_nothing, retries_wait_and_count, a_snooze_spends_nothing,
        a_retry_in_the_past_runs_at_once, the_attempts_go_with_the_delivery, all_kinds_in_one_commit,
        an_empty_settle_is_nothing, several_groups_settle_in_one_commit, outputs_come_with_the_settlement,
        outputs_to_nowhere_settle_nothing: AtomicSettle, outputs_are_not_refused_for_backlog, a_settle_is_readable_at_once,
    }
    schedule {
        events_for_later_are_scheduled, a_scheduled_event_is_never_early,
        retries_come_back_in_the_order_of_their_times, many_retries_wait_without_loss,
        what_is_past_its_time_expires_unseen, a_delivery_that_is_lent_may_outlive_its_expiry,
        what_expires_before_it_is_due_never_runs,
    }
    order {
        one_of_a_key_at_a_time: Order, one_claim_takes_one_of_a_key: Order, without_a_key_there_is_no_order: Order,
        keys_may_come_from_the_body: Order, a_release_keeps_its_place: Order, a_lost_lease_keeps_its_place: Order,
        skip_lets_the_next_go_while_a_failed_one_waits: Order, a_due_retry_waits_while_its_key_is_busy: Order,
        block_holds_the_key_until_the_failed_one_is_done: Order, block_ends_when_the_failed_one_is_dead: Order,
        a_later_event_and_a_failed_one_do_not_lock_each_other: Order, who_leaves_the_line_lets_the_next_go: Order, a_busy_key_does_not_hide_the_others: Order, order_outlives_a_restart: OrderAndDurable,
        groups_have_their_own_order: Order, order_holds_in_a_crowd: Order,
    }
    after {
        an_event_waits_until_the_one_it_names_is_done: After, of_several_all_must_be_done: After,
        what_is_done_already_holds_nobody_back: After, an_event_may_name_one_that_comes_later: After,
        an_event_of_another_source_is_named_with_it: After, a_dead_one_holds_back_until_it_is_done: After,
        who_is_let_go_waits_no_more: After, who_is_rejected_is_a_dead_letter: After,
        what_nobody_has_looked_at_is_let_go_too: After, who_was_tried_waits_no_more: After,
        what_is_skipped_holds_nobody_back: After, what_was_skipped_is_forgotten_with_the_ledger: After, a_skip_does_not_undo_what_is_done: After, what_waits_survives: AfterAndDurable,
        what_waits_can_be_let_go_after_a_restart: AfterAndDurable, those_that_wait_for_each_other_stay: After,
        what_waits_too_long_expires: After, what_the_ledger_forgot_is_waited_for: After,
        nobody_waits_where_the_group_does_not_want_it: After, each_group_does_its_own: After,
        a_group_that_goes_back_waits_anew: After, the_last_time_counts_for_a_group_that_goes_back: After,
        what_was_done_before_is_not_waited_for_once_it_left: After, who_left_is_not_woken: After, who_waits_is_woken: AfterAndWakes,
        many_that_wait_do_not_hide_the_others: After, what_waits_is_not_removed: After,
        what_waits_stands_in_its_line_as_a_failed_one: AfterAndOrder,
        who_waits_lets_its_line_go_when_it_leaves: AfterAndOrder,
    }
    priority {
        what_is_more_urgent_goes_first: Priorities, nothing_waits_for_ever: Priorities, a_step_is_worth_its_time: Priorities,
        one_for_later_counts_from_its_time: Priorities, what_comes_back_keeps_its_rank: Priorities,
        a_lost_lease_keeps_its_rank: Priorities, what_left_has_no_rank: Priorities,
        what_is_sent_back_behind_an_end_has_a_rank: Priorities,
        the_order_of_priorities_outlives_a_restart: PrioritiesAndDurable, priorities_are_a_wish_of_the_group: Priorities,
        counts_and_places_know_of_ranks: Priorities, an_end_holds_for_the_urgent_too: Priorities,
        only_so_many_are_looked_at: Priorities, an_urgent_one_waits_for_the_one_it_names: Priorities,
        within_a_key_the_order_stands: PrioritiesAndOrder,
        one_that_comes_back_stands_before_the_later_ones_of_its_key: PrioritiesAndOrder,
        a_failed_one_that_blocks_holds_the_urgent_of_its_key: PrioritiesAndOrder,
    }
    ledger {
        a_repeated_event_is_not_lent_again, a_repeat_that_waits_while_the_first_runs,
        twins_do_not_run_side_by_side, the_ledger_answers,
        each_group_has_its_own, another_source_is_another_event, what_is_forgotten_runs_again,
        entries_are_kept_for_their_time, without_a_ledger_everything_runs, its_size_is_known, thousands_are_remembered,
    }
    dead {
        everything_of_a_death_is_kept, newest_come_first_in_pages, filters_choose, both_names_lead_to_the_letters,
        resolved_and_discarded_say_who_and_why, states_forbid_a_second_move, reprocessed_runs_once_for_its_group,
        forced_runs_again_even_when_done, an_edited_event_runs_and_the_original_stays, a_step_answers_for_each,
        a_step_has_a_limit, a_second_death_is_a_second_letter, a_redriven_event_keeps_its_order_key: Order,
        the_dedupe_window_lets_a_redrive_through, the_report_counts, a_letter_outlives_its_event,
    }
    desk {
        entries_agree_with_letters, after_means_oldest_first, until_ends_the_time, what_is_parked_is_counted_by_group,
        progress_is_kept_with_the_step, each_has_its_own_edit, a_step_is_one_commit_or_refused,
        it_is_known_what_is_not_settled, what_nobody_has_seen_is_taken_back,
        what_waits_for_a_retry_is_not_taken_back, taking_back_lets_the_key_go: Order, what_is_purged_is_gone,
        imported_letters_are_as_they_were, an_import_is_idempotent_where_it_came_from, an_import_must_fit,
        what_nobody_wants_expires_and_is_forgotten, parked_letters_wait_for_ever_unless_told,
        the_ledger_keeps_one_row, a_ledger_is_cleaned_by_age,
    }
    retention {
        a_bound_on_count_holds, a_bound_on_bytes_holds, a_bound_on_age_holds, without_bounds_everything_stays,
        unsettled_events_are_never_removed, what_is_kept_for_a_group_is_told, one_straggler_outlives_its_neighbours, what_the_stream_drops_is_counted,
        nobody_reads_and_bounds_hold_all_the_same, a_removed_group_holds_nothing_back, bounds_can_be_changed,
        space_comes_back,
    }
    group {
        a_group_starts_where_it_says, declaring_again_moves_nothing, a_group_stays_with_its_stream,
        everything_is_listed, a_removed_group_is_gone, many_groups_and_streams_live_together,
    }
    seek {
        a_hundred_back_with_a_ledger_runs_nothing, without_a_ledger_everything_runs_again,
        what_lies_before_is_forgotten, nothing_moves_while_something_is_in_flight, what_is_not_kept_is_refused,
        places_are_found, a_rehearsal_says_what_becomes_of_each, order_keys_hold_after_a_seek: Order,
        a_seek_survives: Durable, retention_waits_for_a_group_that_went_back, going_back_does_not_fill_the_backlog,
        what_was_forced_once_is_not_forced_again, again_runs_what_was_done_before_once,
        a_claim_may_end_before_a_position,
    }
    range {
        a_range_is_handled_and_nothing_else, its_ledger_is_its_own, a_range_survives: Durable,
        what_is_sent_back_comes_behind_its_end, an_end_is_never_changed, retention_waits_for_a_range,
        a_range_fills_no_backlog, what_the_stream_drops_of_a_range_is_counted,
    }
    state { values_are_put_replaced_and_taken_away, a_value_may_be_large, a_value_is_swapped_only_when_it_is_known }
    whereabouts {
        an_event_is_found_by_its_id, a_search_in_vain_says_how_far_it_looked,
        what_an_index_knows_is_found_beyond_the_bound, an_index_alone_finds_an_output, a_waiting_event_knows_its_place,
        what_waits_for_a_time_says_for_which, a_twin_waits_for_its_twin, a_blocked_event_names_who_has_its_key: Order,
        what_is_settled_says_how, without_a_ledger_the_end_is_known_as_well, what_belongs_to_another_group_is_foreign,
        what_the_policy_removed_is_dropped, a_life_is_told_in_its_steps,
    }
    restart {
        everything_survives_a_stop: Durable, everything_survives_a_kill: Durable,
        streams_and_groups_need_no_second_declaration: Durable, positions_go_on_after_a_kill: Durable,
        a_marked_claim_counts_the_crash: Durable,
        a_marked_claim_ends_with_its_settle: Durable, a_marked_claim_outlives_upkeep: Durable, a_closed_store_answers_nothing, much_work_survives: Durable,
    }
}

/// Returns what the cases are about, each once: the prefixes for [`run`].
pub fn concerns() -> BTreeSet<&'static str> {
    CASES.iter().filter_map(|(name, ..)| name.split_once("::")).map(|(concern, _)| concern).collect()
}

/// What the suite ran and what it left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases that ran.
    pub ran: Vec<&'static str>,
    /// Cases whose promise the engine does not make.
    pub skipped: Vec<&'static str>,
}

/// Names the case that panics.
struct Named(&'static str);

impl Drop for Named {
    #[expect(clippy::print_stderr, reason = "the panic itself does not say in which case it happened")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case that failed: {}", self.0);
        }
    }
}

/// Runs every case whose name starts with `prefix` on a fresh engine each.
#[expect(clippy::print_stderr, reason = "a skipped case is named")]
pub async fn run(prefix: &str, fresh: impl Fn() -> Box<dyn Subject>) -> Summary {
    let mut summary = Summary::default();
    for &(name, needs, case) in CASES.iter().filter(|(name, ..)| name.starts_with(prefix)) {
        let named = Named(name);
        let open = Case::open(fresh()).await;
        if needs.met(&open.store.promises()) {
            case(open).await;
            summary.ran.push(name);
        } else {
            eprintln!("skipped {name}: the engine does not promise {needs:?}");
            summary.skipped.push(name);
        }
        drop(named);
    }
    assert!(!summary.ran.is_empty() || !summary.skipped.is_empty(), "no case is called {prefix}");
    summary
}
