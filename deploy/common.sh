# Sourced by deploy.sh and remove.sh: exit codes, AWS's answers, what is known of the stack.
# Everything works in bash 3.2, which macOS has. `name` is the script's, set before this is sourced.
# shellcheck shell=bash

EXIT_CODES='Exit status:
   0  done, or nothing to do
   1  CloudFormation refused or failed; the failed events of this run are shown
   2  wrong call: an option, a parameter or the form of an ID
   3  the aws command is missing
   4  no Region is set
   5  no credentials, or AWS does not accept them
   6  Python 3.10 or newer with venv is missing
   7  the zip could not be built
   8  the bucket does not exist
   9  the bucket is in another Region
  10  AWS denies something; the message names the permission
  11  the zip of --code-key is not in the bucket
  12  a target or the filter is not in this account and Region
  13  the state of the stack does not allow it, or it is of another template
  14  AWS did not answer: throttled, unreachable, a fault. Try again
  15  the function runs other code than what was deployed
  16  not confirmed; nothing was deleted
  17  something could not be deleted. Run it again'

die() {
  local code=$1
  shift
  printf '%s: %s\n' "$name" "$*" >&2
  exit "$code"
}

# Explains a wrong call and stops.
wrong() {
  printf '%s: %s\n\n' "$name" "$1" >&2
  usage >&2
  exit 2
}

# The value of an option has to be there, and be no option itself.
need_value() {
  if [ $# -lt 2 ] || [ -z "$2" ] || [ "${2#--}" != "$2" ]; then
    wrong "$1 needs a value"
  fi
}

# Sorts what the variable `targets` of the function takes, separated by commas, blanks, tabs or line
# breaks, into $target_ids and $target_accounts, each separated by commas, without duplicates. IDs
# are not held to the form that AWS uses today, since simulators use others; what they are easily
# mistaken for is refused.
sort_targets() {
  local one
  target_ids='' target_accounts=''
  set -f
  local IFS=$', \t\r\n\v\f'
  for one in $1; do
    case $one in
      '') ;;
      tmf-* | tms-* | eni-* | i-* | vpce-* | arn:*)
        wrong "'$one' is no traffic mirror target (tmt-...) and no account (12 digits)"
        ;;
      *[!0-9A-Za-z-]* | -*)
        wrong "'$one' is no traffic mirror target (tmt-...) and no account (12 digits)"
        ;;
      *[!0-9]*)
        case ,$target_ids, in *",$one,"*) ;; *) target_ids=${target_ids:+$target_ids,}$one ;; esac
        ;;
      ????????????)
        case ,$target_accounts, in
          *",$one,"*) ;;
          *) target_accounts=${target_accounts:+$target_accounts,}$one ;;
        esac
        ;;
      *) wrong "'$one' has ${#one} digits, an account has 12" ;;
    esac
  done
  set +f
  [ -n "$target_ids$target_accounts" ] || wrong '--targets names no target'
}

check_filter_form() {
  case $1 in
    tmt-* | tms-* | eni-* | i-* | arn:* | *[!0-9A-Za-z-]* | -*)
      wrong "'$1' is no traffic mirror filter (tmf-...)"
      ;;
  esac
}

# Calls AWS: what it answers stands in $answer, what it complains of in $complaint, and the code of
# the error, where there is one, in $error.
ask() {
  answer='' complaint='' error=''
  if answer=$(aws "$@" 2>"$scratch/complaint"); then
    return 0
  fi
  take_complaint "$scratch/complaint"
  return 1
}

take_complaint() {
  complaint=$(cat "$1")
  error=$(sed -n 's/.*An error occurred (\([^)]*\)).*/\1/p' "$1" | sed -n 1p)
}

# What kind of failure the last one was: denied, credentials, later (to be tried again), other.
kind_of_failure() {
  case $error in
    AccessDenied* | UnauthorizedOperation | UnauthorizedAccess | AuthorizationError* | Forbidden | 403) echo denied ;;
    ExpiredToken* | RequestExpired | InvalidClientTokenId | UnrecognizedClient* | AuthFailure | InvalidAccessKeyId | SignatureDoesNotMatch | InvalidToken*)
      echo credentials
      ;;
    RequestLimitExceeded | *Throttl* | TooManyRequests* | LimitExceeded* | SlowDown | *Unavailable* | Internal* | RequestTimeout* | 429 | 5[0-9][0-9])
      echo later
      ;;
    '')
      case $complaint in
        *redentials* | *'SSO'* | *'token'*) echo credentials ;;
        *) echo later ;;
      esac
      ;;
    *) echo other ;;
  esac
}

# Stops because a call did not work. Arguments: what was wanted, and the permission it takes.
give_up() {
  printf '%s\n' "$complaint" >&2
  case $(kind_of_failure) in
    denied) die 10 "AWS denies $1. It takes $2." ;;
    credentials) die 5 'AWS does not accept the credentials (see above).' ;;
    later) die 14 "AWS did not answer for $1 (see above). Try again." ;;
    *) die 14 "AWS answered with an error for $1 (see above)." ;;
  esac
}

# One Region for every call, credentials that work, and a place for notes.
start() {
  command -v aws >/dev/null ||
    die 3 'the aws command is missing. Install the AWS CLI: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html'
  region=${region:-${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}}
  [ -n "$region" ] || die 4 'no Region is set. Give --region, or set one with: aws configure set region REGION'
  export AWS_REGION=$region AWS_DEFAULT_REGION=$region
  # Version 2 of the AWS CLI would stop in a pager or ask for arguments.
  export AWS_PAGER='' AWS_CLI_AUTO_PROMPT=off
  # Throttled calls are tried again, longer than the AWS CLI does by itself.
  export AWS_RETRY_MODE=${AWS_RETRY_MODE:-standard} AWS_MAX_ATTEMPTS=${AWS_MAX_ATTEMPTS:-8}
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  if ! ask sts get-caller-identity --query Account --output text; then
    printf '%s\n' "$complaint" >&2
    case $error$complaint in
      *'Could not connect'* | *imeout* | *imed\ out* | *Throttl*) die 14 'AWS did not answer (see above). Try again.' ;;
    esac
    die 5 'the AWS CLI has no valid credentials (see the message above). Run: aws configure, or aws sso login'
  fi
  account=$answer
}

# Reads the stack: $status, empty where there is none, and $facts for `fact`.
read_stack() {
  status='' facts=''
  if ask cloudformation describe-stacks --stack-name "$stack" --output text --query "Stacks[0].[
      [['Stack', 'Status', StackStatus], ['Stack', 'Id', StackId]],
      Parameters[].['Parameter', ParameterKey, ParameterValue],
      Outputs[].['Output', OutputKey, OutputValue]]"; then
    facts=$answer
    status=$(fact Stack Status)
  elif [ "$error" != ValidationError ] || [ "${complaint#*does not exist}" = "$complaint" ]; then
    give_up "the state of stack $stack" cloudformation:DescribeStacks
  fi
}

# Whether the stack is one of template.yaml, the first included.
is_ours() {
  [ -n "$(fact Parameter CodeKey)" ]
}

# Stops before a stack that is something else's is changed: its name was mistyped.
stop_if_not_ours() {
  is_ours || die 13 "stack $stack is none of template.yaml: it has no parameter CodeKey. Is --stack right?"
}

# A fact of the stack: `fact Parameter FilterId`, `fact Output FunctionName`.
fact() {
  printf '%s\n' "$facts" | sed -n "s/^$1	$2	//p" | sed -n 1p
}

# Notes the newest event of the stack. What comes later belongs to what is begun now.
note_last_event() {
  last_event=''
  [ -n "$status" ] || return 0
  ask cloudformation describe-stack-events --stack-name "$stack" --no-paginate --output text \
    --query 'StackEvents[0].EventId' ||
    give_up "the events of stack $stack" cloudformation:DescribeStackEvents
  last_event=$answer
}

# Shows what has failed since then, the first failure first: the others mostly follow from it.
show_failures() {
  local id status resource reason
  if ! ask cloudformation describe-stack-events --stack-name "$stack" --output text \
    --query 'StackEvents[].[EventId, ResourceStatus, LogicalResourceId, ResourceStatusReason]'; then
    # Where nothing was begun there is no stack, and no event.
    return 0
  fi
  printf '%s\n' "$answer" >"$scratch/events"
  while IFS=$'\t' read -r id status resource reason; do
    [ "$id" != "$last_event" ] || break
    case $status in
      *_FAILED) printf '  %s %s: %s\n' "$resource" "$status" "$reason" ;;
    esac
  done <"$scratch/events" | sed -n '1!G;h;$p' >"$scratch/failed"
  if [ -s "$scratch/failed" ]; then
    printf '%s: what failed, the first first:\n' "$name" >&2
    cat "$scratch/failed" >&2
  fi
}

# Reads the targets that this account sees here: lines with ID and owner in $scratch/targets.
read_targets() {
  ask ec2 describe-traffic-mirror-targets --output text \
    --query 'TrafficMirrorTargets[].[TrafficMirrorTargetId, OwnerId]' ||
    give_up 'the list of traffic mirror targets' ec2:DescribeTrafficMirrorTargets
  printf '%s\n' "$answer" >"$scratch/targets"
}
