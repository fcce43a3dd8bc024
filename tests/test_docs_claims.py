"""What the docs say of dying, each sentence, and of containers, each section, names the tests that show it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/explanation/worker.md"

# The beginning of each sentence of the page, in its order, and what shows it: functions of tests/, or a chaos run.
CLAIMS = {
    "*At-least-once execution": ["chaos/__main__.py::main"],
    "A job may be started again": ["chaos/__main__.py::main", "test_once.py::test_no_job_runs_twice"],
    "Its local processes die": ["executors/test_process.py::test_a_job_dies_with_its_worker"],
    "Its lease, 30 seconds": [
        "test_queue.py::test_a_lease_runs_on_the_databases_clock",
        "test_docs.py::test_the_settings_page_lists_every_setting_with_its_default",
    ],
    "Another worker adopts": ["test_worker.py::test_a_job_of_a_dead_worker_is_run_again"],
    "Its containers go on": [
        "docker/test_worker.py::test_a_worker_that_ends_leaves_containers_and_the_next_one_reads_on",
        "docker/test_crashes.py::test_a_job_runs_once_when_its_worker_is_killed_while_it_runs",
        "executors/conformance.py::test_another_executor_finds_only_attempts_that_survive",
        "docker/test_conformance.py::TestDockerExecutor",
    ],
    "Whoever adopts their attempts": [
        "docker/test_worker.py::test_a_worker_that_ends_leaves_containers_and_the_next_one_reads_on",
        "docker/test_crashes.py::test_a_job_runs_once_when_its_worker_is_killed_after_the_exit",
        "docker/test_output.py::test_another_executor_reads_all_output_from_the_start",
    ],
    "A container that was created": [
        "docker/test_crashes.py::test_a_job_runs_once_when_its_worker_is_killed_during_the_launch",
        "docker/test_adoption.py::test_a_container_created_and_never_started_is_started_once",
        "executors/conformance.py::test_a_key_runs_once_however_often_it_is_submitted",
    ],
    "One whose daemon has died too": [
        "docker/test_crashes.py::test_what_may_have_run_as_its_worker_and_its_daemon_died_is_not_started_again"
    ],
    "What people do to a container": [
        "docker/test_by_hand.py::test_a_container_removed_by_hand_is_lost_and_one_killed_by_hand_says_so",
        "docker/test_by_hand.py::test_a_paused_container_is_followed_to_its_end",
        "docker/test_by_hand.py::test_a_renamed_container_is_stopped_and_removed",
        "docker/test_by_hand.py::test_the_end_and_all_output_of_a_renamed_container_are_seen",
    ],
    "What an engine still holds": [
        "docker/test_worker.py::test_orphans_are_removed_and_containers_of_other_installations_are_not",
        "test_orphans.py::test_what_is_over_or_not_known_is_nobodys_and_what_is_open_is_somebodys",
    ],
    "For the database it is as if": ["test_worker.py::test_a_job_of_a_dead_worker_is_run_again"],
    "When its lease is over, its warden": [
        "executors/test_process.py::test_the_jobs_of_a_worker_without_heartbeat_are_lost",
        "test_zombie.py::test_a_frozen_worker_loses_its_job_and_works_on",
    ],
    "When it wakes up": [
        "test_zombie.py::test_a_zombie_cannot_end_the_job",
        "test_zombie.py::test_a_zombie_can_neither_renew_nor_write_nor_take_back",
    ],
    "It registers under a new name": [
        "test_zombie.py::test_a_frozen_worker_loses_its_job_and_works_on",
        "test_protocol.py::test_a_worker_that_registers_anew_drops_all_it_held",
    ],
    "A worker that has not heard of its lease": [
        "docker/test_adoption.py::test_an_executor_whose_heartbeat_is_overdue_starts_nothing"
    ],
    "Nor does it go on": [
        "docker/test_adoption.py::test_a_launch_whose_attempt_was_lost_goes_no_further",
        "test_protocol.py::test_what_was_taken_before_it_was_started_is_not_started",
    ],
    "An engine that does not answer": [
        "test_engine_away.py::test_its_jobs_stay_as_they_are_and_no_other_is_claimed_until_it_is_back",
        "docker/test_restarts.py::test_a_daemon_absent_for_half_a_minute_fails_nothing",
    ],
    "Meanwhile its worker claims no more": [
        "test_engine_away.py::test_its_jobs_stay_as_they_are_and_no_other_is_claimed_until_it_is_back",
        "test_engine_away.py::test_while_one_is_away_another_is_served",
        "docker/test_connections.py::test_a_daemon_that_never_answers_is_given_up_and_holds_nobody_up",
    ],
    "Nor does it claim any before": ["test_engine_away.py::test_before_it_has_answered_nothing_is_claimed_for_it"],
    "After `UNREACHABLE_SECONDS`": [
        "test_engine_away.py::test_after_a_while_its_jobs_are_lost",
        "docker/test_restarts.py::test_a_daemon_absent_for_too_long_loses_jobs_and_none_runs_twice_at_a_time",
        "test_docs.py::test_the_settings_page_lists_every_setting_with_its_default",
    ],
    "When it is back before that": [
        "test_engine_away.py::test_its_jobs_stay_as_they_are_and_no_other_is_claimed_until_it_is_back",
        "docker/test_daemon.py::test_an_exit_code_outlives_the_daemon",
        "docker/test_restarts.py::test_with_live_restore_jobs_go_on",
    ],
    "A Docker daemon that is stopped": [
        "docker/test_daemon.py::test_a_stopped_daemon_stops_its_containers",
        "docker/test_daemon.py::test_with_live_restore_a_container_goes_on",
        "docker/test_restarts.py::test_without_live_restore_jobs_that_the_daemon_ended_run_again",
        "docker/test_restarts.py::test_with_live_restore_jobs_go_on",
    ],
    "The worker keeps what it knows": [
        "test_outage.py::test_what_ends_while_the_database_is_away_is_stored_when_it_is_back",
        "test_output.py::test_what_is_stored_is_the_head_and_the_tail",
    ],
    "It tries again with growing pauses": ["test_protocol.py::test_a_worker_without_its_database_does_not_spin"],
    "When the database is back": [
        "test_outage.py::test_what_ends_while_the_database_is_away_is_stored_when_it_is_back"
    ],
    "Was a commit's fate unknown": [
        "test_queue.py::test_a_second_finish_changes_nothing",
        "test_queue.py::test_sent_again_it_is_stored_once",
    ],
    "A deadlock that the database reports": [
        "test_deadlock_retried.py::test_a_deadlock_while_a_worker_stores_ends_is_retried"
    ],
    "Nobody is taken for dead": ["test_protocol.py::test_a_worker_that_was_kept_away_judges_nobody_at_once"],
    "A transaction that sleeps": [
        "test_queue.py::test_a_transaction_that_sleeps_for_too_long_is_rolled_back",
        "test_protocol.py::test_every_connection_of_a_worker_limits_its_transactions",
    ],
    "Rescue, promotion and pruning": ["test_queue.py::test_nobody_waits_for_one_that_sleeps_in_a_transaction"],
    "Retries that are due": [
        "test_queue.py::test_the_oldest_worker_alive_maintains",
        "test_worker.py::test_a_worker_prunes_what_ended_long_ago_if_it_is_told_to",
    ],
    "When its lease is over, or it ends": ["test_queue.py::test_the_oldest_worker_alive_maintains"],
    "Attempts of dead workers": ["test_queue.py::test_only_executors_that_it_serves_or_nobody_alive_does"],
    "The row is `cancelled`": ["test_transitions.py::test_a_legal_edge_passes_and_is_in_the_journal"],
    "The worker that holds the attempt": [
        "test_worker.py::test_cancelling_a_running_job_ends_its_process",
        "executors/conformance.py::test_a_command_that_ignores_term_is_killed",
        "test_operations.py::test_workers_are_woken_when_a_job_is_queued_or_cancelled",
    ],
    "A container is stopped by its daemon": [
        "executors/conformance.py::test_stopping_lets_a_command_end_itself",
        "executors/conformance.py::test_a_command_that_ignores_term_is_killed",
    ],
    "The attempt is closed when": [
        "test_worker_limits.py::test_of_a_cancel_and_the_end_of_a_command_one_wins_and_no_process_is_left"
    ],
    "A job that was cancelled never": ["test_queue.py::test_of_cancel_and_finish_one_wins"],
    "The attempt's reason is one of": ["test_worker.py::test_a_failure_has_its_reason_and_its_words"],
    "`image`, `start` and `unschedulable`": [
        "test_worker.py::test_a_failure_has_its_reason_and_its_words",
        "test_bad_input.py::test_each_bad_job_fails_with_its_reason_and_the_worker_lives_on",
    ],
    "The n-th retry waits": ["test_worker.py::test_the_delay_of_a_retry_follows_its_formula"],
    "A container was out of memory": [
        "docker/test_worker.py::test_each_kind_of_end_has_its_reason_message_and_exit_code",
        "docker/test_exits.py::test_each_end_has_its_failure_reason",
        "docker/test_exits.py::test_a_child_out_of_memory_is_no_failure_of_a_command_that_ends_well",
    ],
    "Of some the daemon never hears": ["docker/test_exits.py::test_a_kill_under_a_memory_limit_may_mean_out_of_memory"],
    "A program that the container's init process": [
        "docker/test_worker.py::test_each_kind_of_end_has_its_reason_message_and_exit_code",
        "docker/test_hardening.py::test_a_program_that_cannot_be_started_is_told_from_one_that_fails",
        "docker/test_hardening.py::test_a_request_that_is_not_allowed_is_rejected_and_leaves_nothing",
    ],
    "A registry that says no": [
        "docker/test_images.py::test_an_image_that_the_registry_does_not_have_is_final",
        "docker/test_images.py::test_a_login_that_is_no_good_is_final_and_says_no_password",
        "docker/test_images.py::test_a_registry_that_cannot_be_reached_may_be_there_later",
        "test_engine_away.py::test_an_engine_that_lacks_what_one_launch_needs_is_not_away",
    ],
    "`manage.py container doctor` compares": [
        "test_operations.py::test_a_true_life_has_no_problems",
        "test_operations.py::test_each_lie_is_found",
    ],
    "It ends with 1": ["test_operations.py::test_each_lie_is_found"],
}


# Each section of the page on containers, in its order, and what shows it.
CONTAINERS = ROOT / "docs/howto/docker.md"
SECTIONS = {
    "Run jobs in containers": [
        "docker/test_worker.py::test_orphans_are_removed_and_containers_of_other_installations_are_not",
        "test_docs.py::test_the_code_of_a_page_runs_from_top_to_bottom",
        "test_settings.py::test_wrong_options_are_named_by_a_check_that_asks_no_engine",
        "test_orphans.py::test_what_is_over_or_not_known_is_nobodys_and_what_is_open_is_somebodys",
        "test_settings.py::test_each_database_is_an_installation_of_its_own_to_an_engine",
        "docker/test_cli.py::test_executors_tells_what_a_daemon_has",
        "docker/test_demo.py::test_the_demo_in_containers_ends_well_and_leaves_none",
    ],
    "Submit a job": [
        "docker/test_cli.py::test_run_gives_a_container_what_was_asked_for",
        "test_docs.py::test_the_executors_page_lists_every_wish_with_its_option",
    ],
    "Say what jobs may have": [
        "docker/test_hardening.py::test_a_request_that_is_not_allowed_is_rejected_and_leaves_nothing",
        "docker/test_hardening.py::test_a_volume_is_read_only_unless_the_settings_say_otherwise",
        "docker/test_hardening.py::test_the_daemon_fills_only_writable_volumes_from_the_image",
        "docker/test_hardening.py::test_the_smallest_share_of_cores_is_still_a_limit",
        "docker/test_adoption.py::test_a_grace_period_is_capped_by_the_executors_option",
        "docker/test_configuration.py::test_a_request_that_is_not_allowed_is_rejected_with_its_reason",
        "docker/test_configuration.py::test_images_are_allowed_by_name_and_tag",
        "docker/test_configuration.py::test_no_image_is_allowed_unless_the_settings_say_so",
        "docker/test_configuration.py::test_allowed_requests_are_granted",
        "docker/test_configuration.py::test_every_wrong_option_is_named",
    ],
    "Relax what is hardened": [
        "docker/test_hardening.py::test_a_default_container_has_no_powers",
        "docker/test_hardening.py::test_a_container_has_limits_of_processes_and_memory_and_no_swap",
        "docker/test_hardening.py::test_a_container_sees_no_network_but_its_own_loopback",
        "docker/test_hardening.py::test_a_container_runs_as_the_user_that_is_asked_for",
        "docker/test_hardening.py::test_a_containers_files_can_be_read_only_except_a_tmpfs",
        "docker/test_hardening.py::test_only_the_allowed_capability_is_kept",
        "docker/test_configuration.py::test_a_default_container_is_hardened",
    ],
    "Pull from a private registry": [
        "docker/test_images.py::test_a_missing_image_is_pulled_with_its_login_and_the_steps_are_in_the_log",
        "docker/test_images.py::test_pull_always_asks_the_registry_each_time",
        "docker/test_images.py::test_pull_never_uses_only_local_images",
        "docker/test_images.py::test_an_image_that_the_registry_does_not_have_is_final",
        "docker/test_images.py::test_a_login_that_is_no_good_is_final_and_says_no_password",
        "docker/test_images.py::test_a_registry_that_cannot_be_reached_may_be_there_later",
    ],
    "Reach a daemon elsewhere": [
        "docker/test_connections.py::test_jobs_run_on_a_daemon_reached_by_tls",
        "docker/test_connections.py::test_a_daemon_whose_certificate_is_another_authoritys_is_not_trusted",
        "docker/test_connections.py::test_jobs_run_on_a_daemon_reached_by_ssh",
        "test_settings.py::test_wrong_options_are_named_by_a_check_that_asks_no_engine",
        "test_example.py::test_dockers_own_variables_name_the_daemon",
    ],
    "Use several daemons": [
        "docker/test_aliases.py::test_each_daemon_runs_the_jobs_that_name_it",
        "test_engine_away.py::test_while_one_is_away_another_is_served",
        "test_queue.py::test_only_executors_that_it_serves_or_nobody_alive_does",
    ],
    "Look into the container of a failed attempt": [
        "docker/test_worker.py::test_a_failed_container_is_kept_for_a_while",
        "docker/test_adoption.py::test_a_failed_container_is_kept_for_keep_failed_seconds",
        "docker/test_adoption.py::test_a_failed_container_is_kept_by_the_daemons_clock",
    ],
    "Set the daemon up": [
        "executors/conformance.py::test_output_keeps_any_bytes",
        "docker/test_restarts.py::test_with_live_restore_jobs_go_on",
        "docker/test_restarts.py::test_without_live_restore_jobs_that_the_daemon_ended_run_again",
    ],
    "Start all of it with compose": [
        "test_example.py::test_every_service_has_an_image_and_waits_for_what_is_there",
        "test_example.py::test_only_the_worker_has_the_daemons_socket",
    ],
    "Let others submit jobs": [
        "docker/test_hardening.py::test_a_request_that_is_not_allowed_is_rejected_and_leaves_nothing",
        "test_admin.py::test_who_may_only_look_can_move_nothing",
        "test_settings.py::test_a_deployment_is_told_that_local_processes_are_not_isolated",
    ],
}


def sentences() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not part.startswith("#")]
    return [
        sentence
        for part in paragraphs
        for sentence in re.split(r"(?:(?<=[.?])|(?<=[.][*]))\s+(?=[A-Z`*])", " ".join(part.split()))
    ]


def test_each_sentence_has_its_tests() -> None:
    found = sentences()
    assert len(found) == len(CLAIMS)
    for sentence, beginning in zip(found, CLAIMS, strict=True):
        assert sentence.startswith(beginning), sentence
    assert_exist(CLAIMS)


def test_each_section_on_containers_has_its_tests() -> None:
    assert re.findall(r"^#+ (.+)$", CONTAINERS.read_text(encoding="utf-8"), re.M) == list(SECTIONS)
    assert all(SECTIONS.values())
    assert_exist(SECTIONS)


def assert_exist(claims: Mapping[str, Sequence[str]]) -> None:
    for test in {test for named in claims.values() for test in named}:
        module, _, name = test.partition("::")
        assert re.search(rf"(def|class) {name}\(", (ROOT / "tests" / module).read_text(encoding="utf-8")), test
