r"""Mistakes that the tests have to notice: each is planted in a copy of the module, alone.

    .venv/bin/python tests/mistakes.py [--jobs 2] [WORD ...]

runs for each mistake (with words: for those whose name has one of them) the tests that ought to
fail, and prints which did. It ends with 1 where a mistake goes unnoticed, no longer fits the module
or keeps the tests from running at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

# The first three are loaded for those that are forked: what tests take longest to import.
import hypothesis  # noqa: F401
import moto.ec2
import moto.sts  # noqa: F401
import pytest

PROJECT = Path(__file__).resolve().parent.parent
MODULE = "lambda_traffic_mirror.py"
SECONDS = 600  # after which a run counts as hung

# After `?` the test that notices those that follow. Of each its name, what stands in the module
# exactly once, and what takes its place; ⏎ is the end of a line.
TABLE = r"""
# events
? test_events.py::test_with_dry_run_in_it_an_event_is_only_tried_out
dry_run needs that of the envelope
    boolean_member(event, "dry_run") or dry_run → boolean_member(event, "dry_run") and dry_run
? test_configuration.py::test_a_dry_run_creates_nothing
DRY_RUN creates
    if task.request.dry_run or self.configuration.dry_run: → if task.request.dry_run:
? test_events.py::test_another_state_than_running_is_ignored
other states than running are mirrored
    if state != "running": → if state == "stopped":
# answers
? test_creating.py::test_it_is_not_final
RequestTimeout is a refusal
    ThroughputExceededException RequestTimeout → ThroughputExceededException
? test_creating.py::test_a_proxys_answer_is_not_final
an error without a code is a refusal
    if code.isdigit() or not code: → if code.isdigit():
? test_time.py::test_a_fifth_of_the_time_is_kept_in_reserve_but_twelve_seconds_at_most
a tenth of the reserve
    self._remaining_milliseconds() / 5 → self._remaining_milliseconds() / 50
? test_time.py::test_time_runs_out_before_each_call_and_before_the_judging_in_turn
calls begin in the reserve
    >= self.reserve → >= 0
what a sweep defers is raised
    unfinished=True, next_sweep=True → unfinished=True, next_sweep=False
? test_reserve.py::test_no_further_interface_is_judged_in_the_reserve
interfaces are judged in the reserve
    self.deadline.check()⏎        source = task.source → source = task.source
? test_ranking.py::test_sessions_on_all_pages_count
only the first page is read
    if not next_token: → if next_token or not next_token:
? test_answers.py::test_a_token_that_repeats_ends_the_reading_as_a_failure
a NextToken may repeat
    if next_token in tokens: → if next_token in tokens and len(tokens) > 9:
? test_answers.py::test_a_session_on_two_pages_does_not_shift_the_choice
a row that comes twice counts twice
    if row_id in seen: → if not row_id:
? test_answers.py::test_what_an_unrelated_session_lacks_harms_nobody
a bad row spoils its whole answer
    answers.fail(keys, error.in_answer_of(read.method)) → raise
? test_hidden.py::test_a_sweep_mirrors_what_services_manage_or_says_that_it_cannot_list_it
managed instances stay hidden
    {"IncludeManagedResources": True} if shows_managed → {} if shows_managed
? test_hidden.py::test_an_instance_that_a_service_manages_is_mirrored
an unknown instance is asked for by filter
    self.home.by_id(INSTANCES, unknown) → self.home.by_filter(INSTANCES, unknown)
# sources
? test_sources.py::test_tags_say_which_instances_are_meant
EXCLUDE_TAGS give way to INCLUDE_TAGS
    tag.matches(instance.tags): → tag.matches(instance.tags) and not configuration.include_tags:
? test_sources.py::test_the_primary_address_is_found
packets come from any address
    optional_member(private, "Primary", bool) and private.get → private.get
? test_sources.py::test_a_sensor_that_is_not_configured_is_no_obstacle_for_its_neighbours
another tool's sensor is mirrored
    if source.interface_id in of_all: → if source.interface_id in of_ours:
? test_sources.py::test_no_interface_of_an_instance_that_hosts_a_sensor_is_mirrored
a sensor's neighbours are mirrored
    if interface_id in of_ours: → if interface_id == source.interface_id:
? test_calls.py::test_a_sensor_that_the_cache_does_not_know_is_not_mirrored_into_itself
a sensor that the cache does not know is mirrored
    if problem := self.region.sensors.why_no_source(source, task.instance): → if problem := "":
# stages
? test_availability.py::test_unavailable_is
a sensor whose host has stopped is available
    host.state != "running" → host.state == "pending"
? test_load_balancers.py::test_a_load_balancer_is_a_sensor_once_tags_say_which_instances_are_meant
a load balancer without tags
    known.sensor.behind_load_balancer and not known → known.sensor.missing and not known
? test_zones.py::test_sensors_of_the_zone_come_first
other zones never
    if not configuration.local_zone_only: → if not configuration:
? test_zones.py::test_a_sensor_in_another_vpc
LOCAL_VPC_ONLY is ignored
    known.configuration.local_vpc_only and in_other_vpc → not known and in_other_vpc
? test_security_groups.py::test_a_rule_admits_or_not
a range of ports begins after its first
    low <= VXLAN_PORT → low < VXLAN_PORT
a peering need not be active
    references=frozenset(active) → references=frozenset(active).union(*by_status.values())
? test_security_groups.py::test_rules_are_understood_however_aws_spells_them
groups know udp by its name only
    ("udp", UDP_NUMBER) → ("udp",)
? test_security_groups.py::test_a_reference_from_another_vpc_without_a_peering_status_ranks_last
a reference without a status admits from any VPC
    if not shared and not other_vpc: → if not shared:
? test_network_acls.py::test_the_acl_of_the_sensors_subnet
a range of ports ends before its last
    high >= VXLAN_PORT → high > VXLAN_PORT
the last address of a block is outside
    first <= self.number <= last → first <= self.number < last
ACL entries in the order of AWS
    tuple(sorted(inbound)) → tuple(inbound)
inbound and outbound swapped
    (outbound if egress else inbound) → (inbound if egress else outbound)
IPv6 entries of ACLs count
    return not about_ipv6 and → return
? test_network_acls.py::test_what_no_entry_matches_is_denied
inbound, no match allows
    if entry and entry.allows: → if not entry or entry.allows:
outbound, no match allows
    or (entry and entry.allows) → or not entry or entry.allows
? test_network_acls.py::test_within_a_subnet_no_acl_applies
within a subnet its ACL applies
    if sensor.subnet_id == source.subnet_id: → if not sensor.subnet_id:
? test_network_acls.py::test_a_sensor_that_the_sources_acl_denies_comes_behind_those_that_it_allows
the outbound ACL is ignored
    ("network_acl", outbound_acl_ranks), →
? test_network_acls.py::test_the_sources_acl_ranks_a_sensor_that_is_read_in_another_account
the source's ACL is looked for in the sensor's account
    known.here.acls.one(source.subnet_id → known.there.acls.one(source.subnet_id
? test_routes.py::test_the_route_decides
the largest block's route wins
    size = last - first → size = first - last
filtered routes count
    return self.state != "filtered" and not to_service → return not to_service
a blackhole leads
    route.state == "blackhole" or →
a local route leads
    "the VPC itself", NextHop.ASTRAY → "the VPC itself", NextHop.LEADS
the main table is not used
    or tables.one(vpc_id) →
a prefix list beside a block is no doubt
    if by_list: → if by_list and not route:
# other accounts
? test_accounts.py::test_through_a_role_a_sensor_is_judged_as_one_of_ours
an account is read without its role
    owner if owner in self.accounts and → owner if not owner and
? test_accounts.py::test_one_account_of_ten_that_cannot_be_read_costs_nobody_else
an account that cannot be read fails the interface
    if known.sensor.through_role: → if not known.sensor:
? test_accounts.py::test_zones_are_compared_by_their_ids
zones of another account by their names
    return self.zone_id if sensor.through_role else self.zone → return self.zone
? test_accounts.py::test_sessions_are_counted_where_the_owner_sees_them
what only the owner sees does not count
    self.sensors.hidden_sessions.get(target_id, 0) → 0
# ranking
? test_accounts.py::test_what_cannot_be_seen
what is unseen is always good enough
    if not configuration.allow_unverified: → if not configuration:
? test_ranking.py::test_the_sensor_with_the_fewest_sessions_is_chosen
the most sessions
    ranked_last, sessions(target_id), draw → ranked_last, -sessions(target_id), draw
? test_ranking.py::test_a_tie_goes_to_the_lowest_sha_256_of_interface_and_target
ties go by target alone
    f"{source.interface_id}{target_id}" → f"{target_id}"
? test_ranking.py::test_each_session_counts_at_once
what was chosen does not count
    self._chosen[target_id] += 1 → self._chosen[target_id] += 0
? test_rounds.py::test_the_next_page_of_a_sweep_counts_what_came_of_a_create_that_was
what was refused goes on counting
    self._chosen[target_id] -= 1 → self._chosen[target_id] -= 0
a throttled create that waits counts twice
    if progress:⏎                self.region.sessions.give_up(plan.target_id) → if progress:
what is sent again does not count
    self.region.sessions.choose(plan.target_id) → pass
# the cache
? test_calls.py::test_the_cache_expires
the cache lives twice as long
    < configuration.cache_seconds → < 2 * configuration.cache_seconds
? test_calls.py::test_a_sweep_takes_nothing_from_the_cache
a sweep uses the cache
    {} if work.sweep else cached_facts → cached_facts
? test_calls.py::test_what_is_cached_does_not_say_that_there_is_no_sensor
the cache says that there is no sensor
    if self.region.may_be_stale: → if not self.region:
? test_calls.py::test_a_batch_tries_once_to_read_the_sensors_afresh
sensors are read afresh for each interface
    return not self._renewed and any → return any
? test_calls.py::test_what_could_not_be_read_is_not_cached
what could not be read is cached
    if complete and newest → if newest
# creating
? test_rounds.py::test_ten_creates_are_under_way_at_a_time_and_no_more
eleven creates at once
    PARALLEL_CREATES = 10 → PARALLEL_CREATES = 11
? test_rounds.py::test_a_round_is_the_first_hundred_that_wait
a round of 101
    ROUND = 100 → ROUND = 101
? test_races.py::test_a_session_that_was_deleted_is_made_anew_for_a_new_event
the token lacks the event
    [task.request.event_id, parameters] → [parameters]
? test_creating.py::test_the_token_differs_with_the
the token lacks the parameters
    [task.request.event_id, parameters] → [task.request.event_id, target_id]
? test_rounds.py::test_a_lost_create_is_found_or_sent_once_more_with_the_same_token
a lost create is sent with another token
    again = asked(home.create_session, plan.parameters) → again = asked(home.create_session, {**plan.parameters, "ClientToken": "x"})
? test_creating.py::test_the_next_best_sensor_is_tried_after
a full target is the interface's fault
    SourcesPerTargetLimitExceeded → PerTargetLimitExceeded
? test_creating.py::test_a_refused_sensor_is_not_tried_again_in_the_invocation
a refused target is tried for the next interface
    rejects(refusal) if refusal else PASSES → PASSES
? test_creating.py::test_nothing_more_is_created_after
a missing filter is the interface's fault
    "InvalidTrafficMirrorFilter" → "InvalidFilter"
? test_rounds.py::test_a_session_of_somebody_faster_counts_for_the_target_that_it_goes_to
another's session counts for the target that was chosen
    self.per_target[session.target_id] += 1 → self.per_target[chosen_target_id] += 1
? test_rounds.py::test_who_has_no_sensor_is_told_so_after_a_total_refusal
a total refusal needs a sensor
    if not ranked: → if not ranked and not self.refusals.everybody:
? test_creating.py::test_a_further_interface_sets_aside_only_itself
any interface sets its type aside
    if task.source.is_first and not task.instance.managed: → if not task.instance.managed:
? test_creating.py::test_what_is_not_supported_is_remembered_for_an_hour
what is not supported is remembered for two hours
    UNSUPPORTED_SECONDS = 3_600 → UNSUPPORTED_SECONDS = 7_200
? test_races.py::test_a_session_that_shows_late_is_looked_for_three_times
two looks for a faster session
    LOOKS = 3  # at a refused → LOOKS = 2  # at a refused
? test_creating.py::test_what_is_gone_meanwhile_is_skipped
an interface that is detached stays failed
    and task.source.interface_id in instance.interface_ids → and instance.interface_ids
? test_creating.py::test_besides_it_there_is_one_of_ours_only
alongside, another session of ours
    session.target_id in ids), None) → session.target_id not in ids), None)
? test_rounds.py::test_a_throttled_create_waits_as_long_as_others_are_created
a throttled create fails though others were created
    if progress: → if not progress:
# sweeps and reports
? test_sweep.py::test_a_session_that_packets_cannot_reach_is_blocked
blocked sessions are in order
    if verdict.says is Says.REJECTS: → if not verdict:
a load balancer's interface in any zone is enough
    faces or sensor.interfaces → sensor.interfaces
? test_sweep.py::test_a_session_that_is_not_shown_to_be_unreachable_exists
what cannot be seen is blocked
    if verdict.says is Says.REJECTS: → if not verdict.passes:
a prefix list that may not be read blocks
    Says.UNSETTLED if problems → Says.REJECTS if problems
? test_routes.py::test_a_sweep_judges_the_sessions_that_leave_the_vpc
routes block no session
    ("route", route_leads),⏎) → )
? test_hidden.py::test_a_session_to_a_target_that_is_gone_is_blocked
a session to a target that is gone is in order
    return self._looked_for.one(target_id) is None → return False
? test_logs_and_metrics.py::test_a_sweep_adds_the_coverage
Coverage counts sessions to others' targets
    entry.session_id is not None and not entry.elsewhere → entry.session_id is not None
? test_logs_and_metrics.py::test_a_sweep_says_whether_it_read_everything_and_what_goes_elsewhere
Elsewhere counts what is created besides
    and not self.ours and outcome != "created" → and not self.ours
? test_logs_and_metrics.py::test_a_sweep_adds_one_line_per_target_with_its_sessions
Sessions of another account's targets
    self._own_account in (None, owners[target_id]) → target_id
? test_logs_and_metrics.py::test_a_sweep_that_stops_in_time_counts_and_gives_no_coverage
a sweep that stops in time has a Coverage
    or self.pages_failed or self._stopped → or self.pages_failed
? test_sqs.py::test_an_unreadable_message_is_named_and_the_others_are_not
unreadable messages are not delivered again
    return bool(message.errors) or any( → return any(
? test_sqs.py::test_only_the_messages_of_failed_instances_are_named
failed messages are not delivered again
    or not report.unfinished_instances.isdisjoint → or report.unfinished_instances.isdisjoint
"""  # noqa: E501


class Mistake(NamedTuple):
    """A mistake; see TABLE."""

    name: str
    right: str
    wrong: str
    test: str


def mistakes(table: str = TABLE) -> Iterator[Mistake]:
    """The rows of the table."""
    name = test = ""
    for line in table.strip().splitlines():
        if line.startswith("    "):
            right, _, wrong = line.strip().replace("⏎", "\n").partition(" →")
            yield Mistake(name, right, wrong.strip(" "), test)
        elif line.startswith("?"):
            test = f"tests/{line[2:]}"
        else:
            name = line


class Failures(list[str]):
    """A plugin of pytest that collects the names of tests that fail."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.append(report.nodeid.removeprefix("tests/"))


def first_failure(tests: Iterable[str], right: str = "", wrong: str = "") -> str:
    """The first of these tests that fails in a copy of the checkout with the mistake in it; empty
    where none does. In a process of its own, since it leaves everything as it comes.

    Raises:
        RuntimeError: the tests do not run at all.
    """

    def hung(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".*"))
        text = (copy / MODULE).read_text(encoding="utf-8")
        if right:
            (copy / MODULE).write_text(text.replace(right, wrong), encoding="utf-8")
        os.chdir(copy)
        sys.path = [path for path in sys.path if not path.startswith(str(PROJECT / "tests"))]
        failures = Failures()
        arguments = ["-x", "-p", "no:cacheprovider", *tests]
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            code = pytest.main(arguments, plugins=[failures])
    if code not in (0, 1):
        raise RuntimeError(f"pytest ends with {code!s}")
    return failures[0] if failures else ""


def tried(mistake: Mistake) -> tuple[Mistake, str, bool]:
    """A mistake, what came of it, and whether that is as it should be."""
    if (PROJECT / MODULE).read_text(encoding="utf-8").count(mistake.right) != 1:
        return mistake, "DOES NOT FIT THE MODULE", False
    try:
        failure = first_failure([mistake.test], mistake.right, mistake.wrong)
    except RuntimeError as error:
        return mistake, str(error).upper(), False
    return mistake, failure or "NOT CAUGHT", bool(failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="part of a mistake's name")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args()
    chosen = [m for m in mistakes() if not options.words or any(w in m.name for w in options.words)]
    by_file: dict[str, dict[str, None]] = {}
    for mistake in chosen:
        by_file.setdefault(mistake.test.partition("::")[0], {})[mistake.test] = None
    bad = 0
    with get_context("fork").Pool(options.jobs, maxtasksperchild=1) as processes:
        for failure in processes.imap(first_failure, map(list, by_file.values()), chunksize=1):
            if failure:
                sys.exit(f"Without any mistake {failure} fails.")
        for mistake, result, good in processes.imap(tried, chosen, chunksize=1):
            print(f"{mistake.name:<56} {result}", flush=True)
            bad += not good
    print(f"{len(chosen) - bad} of {len(chosen)} mistakes are caught.")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
