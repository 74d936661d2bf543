#!/usr/bin/env bash
# Deletes what the function itself never deletes: its sessions, and the stack before them. See usage
# below.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
name=remove.sh
# shellcheck source=deploy/common.sh
source "$here/common.sh"

usage() {
  cat <<USAGE
Usage: deploy/remove.sh [--stack NAME] [--region REGION]
                        [--with-filter] [--with-queues] [--yes]
       deploy/remove.sh --target tmt-... [--above N]
                        [--stack NAME] [--region REGION] [--yes]
       deploy/remove.sh --filter tmf-... --targets "tmt-... ..." [--region REGION]
                        [--with-filter] [--yes]

Lists what it would delete and what stays, asks, and deletes.

1. The stack, and after it the sessions that the function has made: those with
   the stack's filter, to one of its targets, and with the Name that the
   function gives. The stack goes first, since its function would make the
   sessions again. Its outputs are noted in a file in the current folder, so
   that a run that was interrupted can be repeated.
2. With --target: the sessions to that target, which the next sweep makes anew,
   to the sensors that are configured then. For replacing a sensor: first take
   the old target out (deploy/deploy.sh --targets), then run this. Until the
   next sweep their traffic is not mirrored.
3. With --filter and --targets: the sessions of a stack that is gone already.

Sessions of others are shown and never deleted.

  --stack NAME      name of the stack (default: traffic-mirror)
  --region REGION   Region of the stack (default: that of the AWS CLI)
  --target ID       only the sessions to this target
  --above N         only as many of them as the target has beyond N: room for
                    others, or a fair share for new sensors
  --filter ID       filter of a stack that is gone
  --targets LIST    targets and accounts of a stack that is gone
  --with-filter     delete the traffic mirror filter, too
  --with-queues     delete the two queues that outlive the stack, too
  --yes             do not ask

$EXIT_CODES
USAGE
}

stack=traffic-mirror region='' target='' above='' filter='' targets=''
with_filter='' with_queues='' yes=''

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --stack | --region | --target | --above | --filter | --targets)
      need_value "$@"
      case $1 in
        --stack) stack=$2 ;;
        --region) region=$2 ;;
        --target) target=$2 ;;
        --above) above=$2 ;;
        --filter) filter=$2 ;;
        --targets) targets=$2 ;;
      esac
      shift 2
      ;;
    --with-filter | --with-queues | --yes)
      case $1 in
        --with-filter) with_filter=yes ;;
        --with-queues) with_queues=yes ;;
        --yes) yes=yes ;;
      esac
      shift
      ;;
    *)
      wrong "do not understand '$1'"
      ;;
  esac
done

target_ids='' target_accounts=''
if [ -n "$target" ]; then
  [ -z "$filter$targets$with_filter$with_queues" ] ||
    wrong '--target goes with --above, --stack, --region and --yes only'
  sort_targets "$target"
  case $target_ids in *,*) target_ids='' ;; esac
  [ "$target_ids" = "$target" ] || wrong "--target takes one traffic mirror target (tmt-...), not '$target'"
  case $above in *[!0-9]*) wrong "--above takes a number, not '$above'" ;; esac
  [ -z "$above" ] || above=$((10#$above)) # 08 is no octal number
elif [ -n "$above" ]; then
  wrong '--above needs --target'
elif [ -n "$filter$targets" ]; then
  [ -n "$filter" ] && [ -n "$targets" ] || wrong '--filter and --targets go together'
  [ -z "$with_queues" ] || wrong 'the queues of a stack that is gone are not known here'
  check_filter_form "$filter"
  sort_targets "$targets"
fi

start
printf 'Account %s, Region %s\n' "$account" "$region"

# Sorts all sessions into $scratch/ours, which may be deleted, and $scratch/others, with the reason.
# A session is ours if it has $filter (where one is asked for), goes to one of $target_ids or to a
# target of $target_accounts, belongs to this account and has the Name that the function gives.
sort_sessions() {
  local id interface to with owner label why IFS=$'\t'
  if [ -n "$target_accounts" ]; then
    read_targets
  fi
  ask ec2 describe-traffic-mirror-sessions --output text --query "TrafficMirrorSessions[].[
      TrafficMirrorSessionId, NetworkInterfaceId, TrafficMirrorTargetId, TrafficMirrorFilterId,
      OwnerId, Tags[?Key=='Name'] | [0].Value]" ||
    give_up 'the list of traffic mirror sessions' ec2:DescribeTrafficMirrorSessions
  printf '%s\n' "$answer" >"$scratch/sessions"
  : >"$scratch/ours"
  : >"$scratch/others"
  while read -r id interface to with owner label; do
    [ -n "$id" ] || continue
    why=''
    if ! is_target_of_ours "$to"; then
      # One target is asked for: what goes elsewhere is of no interest.
      [ -z "$target" ] || continue
      why='another target'
    elif [ -n "$filter" ] && [ "$with" != "$filter" ]; then
      why="another filter, $with"
    elif [ "$owner" != "$account" ] && [ "$owner" != None ]; then
      why="of account $owner"
    elif [ "$label" != "eh-mirror-${interface:4:4}${to:4:4}" ]; then
      why='another Name'
    fi
    if [ -z "$why" ]; then
      printf '%s\t%s -> %s\t%s\n' "$id" "$interface" "$to" "$label" >>"$scratch/ours"
    else
      printf '%s\t%s -> %s\t%s (%s)\n' "$id" "$interface" "$to" "$label" "$why" >>"$scratch/others"
    fi
  done <"$scratch/sessions"
  if [ -n "$above" ]; then
    keep_n_sessions
  fi
}

is_target_of_ours() {
  local owner
  case ,$target_ids, in *",$1,"*) return 0 ;; esac
  [ -n "$target_accounts" ] || return 1
  owner=$(sed -n "s/^$1	//p" "$scratch/targets")
  case ,$target_accounts, in *",${owner:-nobody},"*) return 0 ;; esac
  return 1
}

# Leaves in $scratch/ours only as many as the target has beyond --above, those of others counted.
keep_n_sessions() {
  local surplus=$(($(count_of ours) + $(count_of others) - above))
  LC_ALL=C sort "$scratch/ours" >"$scratch/sorted"
  if [ "$surplus" -gt 0 ]; then
    sed "${surplus}q" "$scratch/sorted" >"$scratch/ours"
  else
    : >"$scratch/ours"
  fi
}

count_of() {
  grep -c '' "$scratch/$1" || true
}

# Shows at most 50 lines of a list, indented.
show() {
  local count
  count=$(count_of "$1")
  sed -n '1,50s/^/    /p' "$scratch/$1"
  [ "$count" -le 50 ] || printf '    ... and %s more\n' $((count - 50))
}

confirm() {
  local reply=''
  [ -z "$yes" ] || return 0
  printf 'Type yes to delete what is listed: '
  read -r reply || true
  [ "$reply" = yes ] || die 16 'not confirmed, nothing was deleted.'
}

# Deletes one session, again and again while EC2 throttles. Leaves a file that says how it ended.
delete_session() {
  local pause
  for pause in 1 2 4 8 16 0; do
    if aws ec2 delete-traffic-mirror-session --traffic-mirror-session-id "$1" \
      >/dev/null 2>"$scratch/at/$1"; then
      rm "$scratch/at/$1"
      return 0
    fi
    take_complaint "$scratch/at/$1"
    case $error in
      *NotFound)
        # Somebody was faster, or its interface is gone.
        rm "$scratch/at/$1"
        return 0
        ;;
    esac
    [ "$(kind_of_failure)" = later ] || return 0
    [ "$pause" = 0 ] || sleep "$pause"
  done
}

# Deletes the sessions in $scratch/ours, four at a time: EC2 allows about five such calls a second.
delete_sessions() {
  local id rest group=0 done_so_far=0 all IFS=$'\t'
  all=$(count_of ours)
  [ "$all" -gt 0 ] || return 0
  rm -rf "$scratch/at"
  mkdir "$scratch/at"
  while read -r id rest; do
    delete_session "$id" &
    group=$((group + 1)) done_so_far=$((done_so_far + 1))
    if [ "$group" -eq 4 ] || [ "$done_so_far" -eq "$all" ]; then
      wait
      group=0
      stop_if_denied
      [ $((done_so_far % 100)) -ne 0 ] || printf 'Looked after %s of %s sessions.\n' "$done_so_far" "$all"
    fi
  done <"$scratch/ours"
  printf 'Deleted %s of %s sessions.\n' $((all - $(failures))) "$all"
}

failures() {
  find "$scratch/at" -type f | grep -c '' || true
}

stop_if_denied() {
  local file
  for file in "$scratch/at"/*; do
    [ -f "$file" ] || continue
    take_complaint "$file"
    case $(kind_of_failure) in denied | credentials) give_up 'the deletion of sessions' ec2:DeleteTrafficMirrorSession ;; esac
  done
}

# Says what could not be deleted, and stops.
stop_if_left() {
  local file
  [ "$(failures)" -gt 0 ] || return 0
  for file in "$scratch/at"/*; do
    printf '  %s: %s\n' "${file##*/}" "$(sed '/^$/d' "$file" | sed -n 1p)" >&2
  done
  die 17 "$(failures) sessions could not be deleted. Run the same command again."
}

# The sessions to one target

if [ -n "$target" ]; then
  read_stack
  sort_sessions
  printf 'Sessions to %s: %s of ours to be deleted' "$target" "$(count_of ours)"
  [ -z "$above" ] || printf ', beyond %s' "$above"
  printf '\n'
  show ours
  if [ -s "$scratch/others" ]; then
    printf 'Of others, they stay: %s\n' "$(count_of others)"
    show others
  fi
  if [ ! -s "$scratch/ours" ]; then
    printf 'Nothing to delete.\n'
    exit 0
  fi
  if ! is_ours; then
    printf 'Note: there is no stack %s here, so nothing mirrors these interfaces anew.\n' "$stack"
  elif [ -z "$above" ]; then
    sort_targets "$(fact Parameter Targets),$(fact Parameter TargetAccounts)"
    [ -z "$target_accounts" ] || read_targets
    if is_target_of_ours "$target"; then
      printf 'Note: stack %s still names %s, so the next sweep may choose it again. Take it out first: deploy/deploy.sh --bucket ... --targets ...\n' "$stack" "$target"
    fi
  fi
  confirm
  delete_sessions
  stop_if_left
  printf 'The next sweep mirrors these interfaces anew.\n'
  exit 0
fi

# The stack and its sessions

notes=$PWD/$stack-$region-$account.removal
read_stack
if [ -n "$filter" ]; then
  [ -z "$status" ] || wrong "stack $stack is there: without --filter and --targets it is removed with its sessions"
  notes=''
else
  if [ -z "$status" ]; then
    [ -f "$notes" ] ||
      die 13 "there is no stack $stack in $region, and no notes $notes of a removal. For sessions of a stack that is gone: --filter and --targets."
    facts=$(cat "$notes")
    printf 'Stack %s is gone, going on with %s\n' "$stack" "$notes"
  fi
  filter=$(fact Output FilterId)
  filter=${filter:-$(fact Parameter FilterId)}
  if [ -z "$filter" ]; then
    # A first deployment that failed has none, and no session. Nothing has this filter.
    filter=unknown with_filter=''
  fi
  # Of a stack that never got beyond a change set nothing is known, and it has made nothing.
  case $status in '' | REVIEW_IN_PROGRESS) ;; *) stop_if_not_ours ;; esac
  ! is_ours || sort_targets "$(fact Parameter Targets),$(fact Parameter TargetAccounts)"
fi
case $status in
  DELETE_IN_PROGRESS | REVIEW_IN_PROGRESS) ;;
  *_IN_PROGRESS) die 13 "stack $stack is in $status: something else is changing it. Try again when that is over." ;;
esac

# Whether an earlier run has noted that it has deleted a filter or a queue.
is_gone() {
  [ -z "$status" ] && [ -f "$notes" ] && grep -Fx "Deleted	$1" "$notes" >/dev/null
}

queues=''
for one in DeadLetterQueueUrl FailedSweepQueueUrl; do
  one=$(fact Output "$one")
  is_gone "$one" || queues="$queues $one"
done
sort_sessions

printf 'To be deleted:\n'
[ -z "$status" ] || printf '  stack %s (%s)\n' "$stack" "$status"
printf '  %s mirror sessions with filter %s\n' "$(count_of ours)" "$filter"
show ours
[ -z "$with_filter" ] || printf '  filter %s\n' "$filter"
if [ -n "$with_queues" ]; then
  for one in $queues; do printf '  queue %s\n' "$one"; done
fi
printf 'What stays:\n'
[ -n "$with_filter" ] || [ "$filter" = unknown ] || is_gone "$filter" ||
  printf '  filter %s (--with-filter deletes it)\n' "$filter"
if [ -z "$with_queues" ]; then
  for one in $queues; do printf '  queue %s (--with-queues deletes it)\n' "$one"; done
fi
if [ -n "$facts" ]; then
  log_group=$(fact Output LogGroupName)
  [ -z "$log_group" ] || printf '  log group %s, whose records expire\n' "$log_group"
  printf '  zips in s3://%s/lambda_traffic_mirror/\n' "$(fact Parameter CodeBucket)"
fi
printf '  %s mirror sessions of others\n' "$(count_of others)"
show others
if [ -z "$status" ] && [ -z "$with_filter$with_queues" ] && [ ! -s "$scratch/ours" ]; then
  [ -z "$notes" ] || rm -f "$notes"
  printf 'Nothing is left to delete.\n'
  exit 0
fi
confirm

if [ -n "$status" ]; then
  # By its ID it can be asked for while it goes and when it is gone.
  stack_id=$(fact Stack Id)
  printf '%s\n' "$facts" >"$notes"
  printf 'Outputs noted in %s\n' "$notes"
  note_last_event
  if [ "$status" != DELETE_IN_PROGRESS ]; then
    ask cloudformation delete-stack --stack-name "$stack_id" || {
      case $(kind_of_failure) in other)
        printf '%s\n' "$complaint" >&2
        die 1 "stack $stack was not deleted, and no session was."
        ;;
      esac
      give_up "the deletion of stack $stack" cloudformation:DeleteStack
    }
  fi
  printf 'Deleting stack %s ...\n' "$stack"
  if ! ask cloudformation wait stack-delete-complete --stack-name "$stack_id"; then
    case $complaint in
      *'terminal failure state'*) printf '%s\n' "$complaint" >&2 ;;
      *) give_up "the deletion of stack $stack, which goes on" cloudformation:DescribeStacks ;;
    esac
    show_failures
    die 1 "stack $stack was not deleted, and no session was: its function would make them again. Run it again."
  fi
fi

# An invocation that was under way when its function was deleted goes on making sessions.
for one in 1 2 3; do
  sort_sessions
  [ -s "$scratch/ours" ] || break
  delete_sessions
  stop_if_left
done

left=0
delete_or_note() {
  local what=$1 permission=$2
  shift 2
  if ask "$@"; then
    printf 'Deleted %s\n' "$what"
    [ -z "$notes" ] || printf 'Deleted\t%s\n' "${what#* }" >>"$notes"
    return 0
  fi
  case $error in
    *NotFound | *NonExistentQueue | *QueueDoesNotExist) ;;
    *InUse) printf '%s: %s is still used by sessions of others.\n' "$name" "$what" >&2 && left=1 ;;
    *) [ "$(kind_of_failure)" = other ] || give_up "the deletion of $what" "$permission"
      printf '%s\n' "$complaint" >&2
      left=1
      ;;
  esac
}

if [ -n "$with_filter" ]; then
  delete_or_note "filter $filter" ec2:DeleteTrafficMirrorFilter \
    ec2 delete-traffic-mirror-filter --traffic-mirror-filter-id "$filter"
fi
if [ -n "$with_queues" ]; then
  for one in $queues; do
    delete_or_note "queue $one" sqs:DeleteQueue sqs delete-queue --queue-url "$one"
  done
fi
[ "$left" -eq 0 ] || die 17 'something could not be deleted (see above). Run the same command again.'
if [ -n "$notes" ] && [ -n "$status" ]; then
  timeout=$(fact Parameter Timeout)
  printf 'Done. A sweep that was under way may have made last sessions: run the same command again in %s minutes. It goes on with the notes, and removes them when nothing is left.\n' $((${timeout:-60} / 60 + 1))
else
  [ -z "$notes" ] || rm -f "$notes"
  printf 'Done.\n'
fi
