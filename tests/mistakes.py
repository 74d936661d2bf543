r"""Mistakes that the tests have to notice: each is planted in a copy of the module, alone.

    .venv/bin/python tests/mistakes.py [--jobs 2] [WORD ...]

runs for each mistake (with words: for those whose name has one of them) the test that ought to
fail. It ends with 1 where a mistake goes unnoticed or no longer fits the module, and where one of
the tests fails without any mistake.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
MODULE = "lambda_traffic_mirror.py"
SECONDS = 600  # after which a run counts as hung

# After `?` the test that notices those that follow. Of each its name, what stands in the module
# exactly once, and what takes its place.
TABLE = r"""
? test_events.py::test_an_event_is_understood_bare_and_in_every_envelope_and_as_a_dry_run
a dry_run in the event creates
    if task.request.dry_run or self.configuration.dry_run: → if self.configuration.dry_run:
? test_events.py::test_another_state_than_running_is_ignored
an instance that stops is mirrored
    if state == "running": → if state != "pending":
? test_sqs.py::test_only_the_messages_of_failed_instances_are_named
failed messages are not delivered again
    or not self._unfinished_instances.isdisjoint → or self._unfinished_instances.isdisjoint
? test_creating.py::test_an_error_without_a_code_of_ec2_is_no_final_refusal_and_what_it_hid_is_found_later
a proxy's page is a refusal
    if code.isdigit() or not code: → if code.isdigit():
? test_answers.py::test_whatever_member_cannot_be_read_nothing_escapes_and_neighbours_are_unharmed
a row that cannot be read spoils its answer
    item = noun(read.of, row) → item = read.of(row)
? test_hidden.py::test_what_services_manage_is_mirrored_or_the_reason_and_a_warning_say_why_not
managed instances stay hidden
    parameters["IncludeManagedResources"] = True → pass
? test_availability.py::test_what_cannot_be_read_of_a_sensor_harms_only_those_who_have_nothing_else
a missing answer harms those who have another sensor
    if not choice.ranked: → if any(v.error for v in choice.verdicts.values()) or not choice.ranked:
? test_time.py::test_time_runs_out_before_each_round_trip_in_turn
calls begin in the reserve
    client.meta.events.register(f"request-created.{service}", check_deadline) → pass
? test_time.py::test_a_pause_that_could_end_in_the_reserve_is_not_begun
botocore pauses into the reserve
    if _current.deadline.allows(min(2 ** (attempts - 1), 20)): → if _current.deadline.allows(0):
? test_time.py::test_failed_and_deferred_are_counted_and_named_but_a_sweep_raises_for_the_failed_alone
what a sweep defers is raised
    if not (entry.request.sweep and entry.outcome == "deferred"): → if entry:
? test_sources.py::test_tags_say_which_instances_are_meant
EXCLUDE_TAGS give way to INCLUDE_TAGS
    for tag in configuration.exclude_tags: → for tag in configuration.exclude_tags[len(configuration.include_tags) :]:
? test_sources.py::test_the_primary_address_is_found
packets come from any address
    or () if a.get("Primary")] → or ()]
? test_sources.py::test_no_interface_of_an_instance_that_hosts_a_sensor_is_mirrored
a sensor's neighbours are mirrored
    for interface_id in source.neighbours: → for interface_id in (source.interface.interface_id,):
? test_steering.py::test_what_the_tag_does_not_name_is_rejected_before_any_other_stage
a tag that names targets is ignored
    if not named or face.sensor.target_id in named.split(): → if named is not None:
? test_zones.py::test_other_zones_are_out_of_the_question_or_ranked_behind
other zones are never used
    if configuration.local_zone_only: → if configuration:
? test_accounts.py::test_zones_are_compared_by_their_ids
zones of another account are compared by their names
    return source.interface.zone_id, face.interface.zone_id → return source.interface.zone, face.interface.zone
? test_zones.py::test_local_vpc_only_puts_a_sensor_in_another_vpc_out_of_the_question
LOCAL_VPC_ONLY is ignored
    if not configuration.local_vpc_only or not in_other_vpc(source, face): → if configuration:
? test_security_groups.py::test_a_rule_admits_or_not
a range of ports begins after its first
    low <= VXLAN_PORT → low < VXLAN_PORT
a peering need not be active
    if origin.status == "active" or (origin.status is None and not other_vpc): → if origin.status or not other_vpc:
? test_network_acls.py::test_the_acl_of_the_sensors_subnet_decides
ACL entries in the order of AWS
    in sorted(row["Entries"], key=lambda entry: entry.get("RuleNumber") or 0) → in row["Entries"]
? test_network_acls.py::test_within_a_subnet_no_acl_applies_and_a_hidden_one_denies_nothing
within a subnet its ACL applies
    if face.interface.subnet_id == source.interface.subnet_id: → if not source:
? test_routes.py::test_the_route_decides
the shortest prefix wins
    smallest = min((route.size → smallest = max((route.size
? test_load_balancers.py::test_a_load_balancer_is_a_sensor_once_tags_say_which_instances_are_meant
a load balancer needs no tags
    by_tags = configuration.include_tags or configuration.exclude_tags → by_tags = True
? test_accounts.py::test_what_cannot_be_seen_and_decides_is_the_last_resort_where_that_is_allowed
what is unseen is good enough
    if hidden and not face.error and not configuration.allow_unverified: → if hidden and not configuration:
? test_ranking.py::test_the_sensor_with_the_fewest_sessions_is_chosen
the most sessions
    return verdicts[target_id].rank, sessions[target_id], draw → return verdicts[target_id].rank, -sessions[target_id], draw
? test_ranking.py::test_a_tie_goes_to_the_lowest_sha_256_of_interface_and_target
ties go by target alone
    f"{source.interface.interface_id}{target_id}".encode() → target_id.encode()
? test_ranking.py::test_zone_before_ranked_behind_before_other_zones_before_unverified_whatever_the_sessions
sessions go before ranks
    return verdicts[target_id].rank, sessions[target_id], draw → return sessions[target_id], verdicts[target_id].rank, draw
? test_rounds.py::test_each_choice_counts_at_once_so_that_those_with_fewer_sessions_fill_up_first
what was chosen does not count
    self.region.sessions.chosen[task.target_id] += 1 → pass
? test_calls.py::test_a_sweep_takes_nothing_from_the_cache_and_what_is_mirrored_costs_no_call
a sweep uses what is remembered
    seconds = 0 if sweep else configuration.cache_seconds → seconds = configuration.cache_seconds
? test_calls.py::test_what_is_cached_does_not_say_that_there_is_no_sensor
what is remembered says that there is no sensor
    if not choice.ranked and self.region.may_be_renewed: → if not self.region:
? test_calls.py::test_what_could_not_be_read_is_not_cached
what failed is remembered
    if complete and self.remember_seconds: → if self.remember_seconds:
? test_races.py::test_a_session_that_was_deleted_is_made_anew_for_a_new_event
the token lacks the event
    [task.request.event_id, parameters] → [parameters]
? test_creating.py::test_after_a_refusal_that_is_about_the_target_the_next_best_sensor_is_tried
a full target is the interface's fault
    ("TrafficMirrorSourcesPerTargetLimitExceeded", Scope.TARGET), →
? test_steering.py::test_a_filter_that_does_not_exist_concerns_only_the_interfaces_that_use_it
a filter that does not exist stops all creates
    ("InvalidTrafficMirrorFilter", Scope.FILTER) → ("InvalidTrafficMirrorFilter", Scope.ACCOUNT)
? test_creating.py::test_whether_an_interface_that_aws_does_not_mirror_sets_its_instance_type_aside
any interface sets its type aside
    if kind and source.interface.is_first and not source.managed: → if kind and not source.managed:
? test_creating.py::test_the_session_of_a_faster_invocation_is_looked_for_three_times_a_second_apart
two looks for a faster session
    TRIES = 3 → TRIES = 2
? test_rounds.py::test_ten_creates_are_under_way_at_a_time_and_no_more
eleven creates at once
    PARALLEL_CREATES = 10 → PARALLEL_CREATES = 11
? test_rounds.py::test_a_throttled_create_waits_as_long_as_others_are_created
a throttled create fails though others were created
    progress |= became.outcome == "created" → pass
? test_sweep.py::test_a_session_that_packets_cannot_reach_is_blocked
blocked sessions are in order
    return self.stage is not None and self.certain → return False
? test_sweep.py::test_sources_that_aws_always_refuses_keep_no_others_from_their_turn
a page has the same order in each sweep
    drawn = f"{request.event_id}{item[0]}" → drawn = f"{item[0]}"
? test_logs_and_metrics.py::test_a_sweep_adds_coverage_elsewhere_excluded_and_whether_it_read_everything
Coverage counts sessions to others' targets
    entry.session_id is not None and entry.metric != "Elsewhere" → entry.session_id is not None
? test_logs_and_metrics.py::test_an_invocation_prints_one_valid_line_with_every_outcome
a dry run counts in metrics
    if not entry.request.dry_run: → if entry:
? test_result.py::test_of_more_and_in_a_sweep_the_hundred_come_that_need_attention_most
a report keeps every entry
    del self._kept[LISTED:] → pass
? test_sweep_memory.py::test_the_rows_of_a_page_are_dropped_before_it_is_worked_on
pages are kept after they are read
    lists.clear() → pass
"""  # noqa: E501


class Mistake(NamedTuple):
    name: str
    right: str
    wrong: str
    test: str


def mistakes() -> Iterator[Mistake]:
    """The rows of the table."""
    name = test = ""
    for line in TABLE.strip().splitlines():
        if line.startswith("    "):
            right, _, wrong = line.strip().partition(" →")
            yield Mistake(name, right, wrong.strip(" "), test)
        elif line.startswith("?"):
            test = f"tests/{line[2:]}"
        else:
            name = line


def fails(tests: Iterable[str], right: str = "", wrong: str = "") -> bool:
    """Whether one of these tests fails in a copy of the checkout with the mistake in it.

    Raises:
        RuntimeError: the tests do not run at all.
    """
    with TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".*", "mutants"))
        text = (copy / MODULE).read_text(encoding="utf-8")
        (copy / MODULE).write_text(text.replace(right, wrong), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ends with {done.returncode}")
    return done.returncode == 1


def tried(mistake: Mistake) -> str:
    """What is wrong with a mistake and its test; empty where the test notices it."""
    if (PROJECT / MODULE).read_text(encoding="utf-8").count(mistake.right) != 1:
        return "DOES NOT FIT the module"
    try:
        noticed = fails([mistake.test], mistake.right, mistake.wrong)
        return "" if noticed else f"NOT NOTICED by {mistake.test}"
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="part of a mistake's name")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args()
    chosen = [m for m in mistakes() if not options.words or any(w in m.name for w in options.words)]
    if fails(dict.fromkeys(mistake.test for mistake in chosen)):
        sys.exit("A test fails without any mistake.")
    bad = 0
    with ThreadPoolExecutor(options.jobs) as threads:
        for mistake, problem in zip(chosen, threads.map(tried, chosen), strict=True):
            print(f"{mistake.name:<56} {problem or 'noticed'}", flush=True)
            bad += bool(problem)
    print(f"{len(chosen) - bad} of {len(chosen)} mistakes are noticed.")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
