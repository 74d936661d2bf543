#!/usr/bin/env bash
# Builds the zip, uploads it and deploys template.yaml. See usage below.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
name=deploy.sh
# shellcheck source=deploy/common.sh
source "$here/common.sh"

usage() {
  cat <<USAGE
Usage: deploy/deploy.sh --bucket BUCKET [--targets "tmt-... ..."] [--filter tmf-...]
                        [--stack NAME] [--region REGION] [--code-key KEY]
                        [Parameter=Value ...] [-- ARGUMENTS]

Builds lambda_traffic_mirror.zip, uploads it to the bucket under a key that
contains its version and SHA-256, deploys the CloudFormation stack and prints
its outputs. Everything that is named is looked up first. Run it again to
upgrade or to change something: what is left out keeps the value it has, so
that an upgrade needs nothing but --bucket.

  --bucket BUCKET   S3 bucket for the zip, in the Region of the stack
  --targets LIST    traffic mirror targets (tmt-...) of your sensors, and
                    accounts (12 digits) of which every target is used that is
                    visible here; separated by commas, blanks or line breaks.
                    A new stack needs it
  --filter ID       traffic mirror filter that says which packets are mirrored.
                    Without it, a new stack makes one that mirrors everything;
                    '--filter new' lets a stack that has another make one
  --stack NAME      name of the stack (default: traffic-mirror)
  --region REGION   Region of the instances (default: that of the AWS CLI)
  --code-key KEY    deploy a zip that is in the bucket already, instead of
                    building one: the way back to an earlier version
  Parameter=Value   any other parameter of template.yaml, for example
                    LocalZoneOnly=false AlarmTopicArn=arn:aws:sns:...
  -- ARGUMENTS      for 'aws cloudformation deploy', for example
                    -- --tags team=security --role-arn arn:aws:iam::...
                    -- --no-execute-changeset

Needs the AWS CLI with credentials that may do it (docs/operations.md lists the
rights), and what build_zip.sh needs: Python 3.10 or newer with venv. PYTHON
names another than python3.

$EXIT_CODES
USAGE
}

bucket='' filter='' targets='' stack=traffic-mirror region='' code_key=''
parameters=()
arguments=()
execute=yes

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --bucket | --filter | --targets | --stack | --region | --code-key)
      need_value "$@"
      case $1 in
        --bucket) bucket=${2#s3://} bucket=${bucket%/} ;;
        --filter) filter=$2 ;;
        --targets) targets=$2 ;;
        --stack) stack=$2 ;;
        --region) region=$2 ;;
        --code-key) code_key=$2 ;;
      esac
      shift 2
      ;;
    --)
      shift
      for one in "$@"; do
        case $one in
          --stack-name* | --template-file* | --parameter-overrides* | --region* | --s3-bucket*)
            wrong "${one%%=*} is for deploy.sh to say"
            ;;
          --no-execute-changeset) execute=no ;;
        esac
      done
      case ${1:---} in
        --*) ;;
        *) wrong "behind -- options of 'aws cloudformation deploy' are expected, not '$1'" ;;
      esac
      arguments=("$@")
      break
      ;;
    CodeBucket=* | CodeKey=* | FilterId=* | Targets=* | TargetAccounts=*)
      wrong "${1%%=*} has an option of its own: --bucket, --code-key, --filter or --targets"
      ;;
    CodeVersion=*)
      wrong 'CodeVersion is read from the module'
      ;;
    [A-Za-z]*=*)
      sed -n '/^Parameters:/,/^[CMR][a-z]*:/p' "$here/template.yaml" | grep -Fx "  ${1%%=*}:" >/dev/null ||
        wrong "template.yaml has no parameter ${1%%=*}"
      parameters+=("$1")
      shift
      ;;
    *)
      wrong "do not understand '$1'"
      ;;
  esac
done

[ -n "$bucket" ] || wrong '--bucket is missing'
case $bucket in
  *[!abcdefghijklmnopqrstuvwxyz0123456789.-]*) wrong "'$bucket' is no name of a bucket" ;;
esac
code_key=${code_key#"s3://$bucket/"}
case $filter in
  '') ;;
  new) parameters+=('FilterId=') ;;
  *)
    check_filter_form "$filter"
    parameters+=("FilterId=$filter")
    ;;
esac
target_ids='' target_accounts=''
if [ -n "$targets" ]; then
  sort_targets "$targets"
  parameters+=("Targets=$target_ids" "TargetAccounts=$target_accounts")
fi

start
printf 'Account %s, Region %s, stack %s\n' "$account" "$region" "$stack"

# What has to be so before anything is built, uploaded or deployed.

look_at_stack() {
  read_stack
  case $status in
    '' | REVIEW_IN_PROGRESS)
      [ -n "$targets" ] ||
        wrong "--targets is missing: there is no stack $stack in $region yet, and a new one needs it"
      ;;
    ROLLBACK_COMPLETE)
      show_rolled_back
      exit 13
      ;;
    *_IN_PROGRESS)
      die 13 "stack $stack is in $status: something else is changing it. Try again when that is over."
      ;;
    UPDATE_ROLLBACK_FAILED)
      die 13 "stack $stack is in $status. Mend what its events name, then: aws cloudformation continue-update-rollback --region $region --stack-name $stack"
      ;;
    ROLLBACK_FAILED | DELETE_FAILED | IMPORT_ROLLBACK_FAILED)
      die 13 "stack $stack is in $status and cannot be updated. Its events say why."
      ;;
    *) stop_if_not_ours ;;
  esac
  was_key=$(fact Parameter CodeKey)
  [ -z "$was_key" ] ||
    printf 'Now there: version %s, s3://%s/%s\n' "$(version_of_key "$was_key")" "$(fact Parameter CodeBucket)" "$was_key"
  note_last_event
}

show_rolled_back() {
  cat >&2 <<EXPLAIN
$name: stack $stack is in ROLLBACK_COMPLETE: its first deployment failed, and it holds nothing. It has to be deleted before the next try:
  aws cloudformation delete-stack --region $region --stack-name $stack
EXPLAIN
}

look_at_targets() {
  local one missing='' IFS=,
  [ -n "$targets" ] || return 0
  read_targets
  for one in $target_ids; do
    grep -q "^$one	" "$scratch/targets" || missing="$missing $one"
  done
  if [ -n "$missing" ]; then
    printf 'Traffic mirror targets that account %s sees in %s:\n' "$account" "$region" >&2
    sed 's/^/  /;20q' "$scratch/targets" >&2
    die 12 "no traffic mirror target in account $account and $region:$missing"
  fi
  for one in $target_accounts; do
    grep -q "	$one\$" "$scratch/targets" ||
      printf '%s: note: account %s owns no traffic mirror target that is visible here yet.\n' "$name" "$one" >&2
  done
}

look_at_filter() {
  case $filter in '' | new) return 0 ;; esac
  ask ec2 describe-traffic-mirror-filters --output text \
    --query 'TrafficMirrorFilters[].[TrafficMirrorFilterId]' ||
    give_up 'the list of traffic mirror filters' ec2:DescribeTrafficMirrorFilters
  printf '%s\n' "$answer" | grep -Fx "$filter" >/dev/null ||
    die 12 "no traffic mirror filter in account $account and $region: $filter"
}

look_at_bucket() {
  local place
  if ! ask s3api head-bucket --bucket "$bucket" --query BucketRegion --output text; then
    case $error in
      404 | NoSuchBucket | NotFound) die 8 "there is no bucket $bucket. Make one: aws s3 mb s3://$bucket --region $region" ;;
      301 | PermanentRedirect) die 9 "bucket $bucket is in another Region. The function's code has to come from a bucket in $region." ;;
    esac
    give_up "a look at bucket $bucket, or it is somebody else's" s3:ListBucket
  fi
  place=$answer
  # An older AWS CLI does not show it.
  if [ "${place:-None}" = None ] && ask s3api get-bucket-location --bucket "$bucket" --output text --query LocationConstraint; then
    case $answer in None) place=us-east-1 ;; EU) place=eu-west-1 ;; *) place=$answer ;; esac
  fi
  case ${place:-None} in
    None | "$region") ;;
    *) die 9 "bucket $bucket is in $place. The function's code has to come from a bucket in $region." ;;
  esac
}

look_at_zip() {
  if ! ask s3api head-object --bucket "$bucket" --key "$code_key" --query ContentLength --output text; then
    case $error in
      404 | NoSuchKey | NotFound)
        aws s3 ls "s3://$bucket/lambda_traffic_mirror/" >&2 || true
        die 11 "there is no s3://$bucket/$code_key"
        ;;
    esac
    give_up "a look at s3://$bucket/$code_key" s3:GetObject
  fi
}

# The first template took a rate such as rate(5 minutes), the present one minutes of a choice. What
# the stack has is kept as nearly as can be.
keep_sweep_rate() {
  local number unit minutes one
  case " ${parameters[*]-} " in *' SweepRate='*) return 0 ;; esac
  # shellcheck disable=SC2046 # two words are wanted
  set -- $(fact Parameter SweepRate | sed -n 's/^rate(\([0-9]*\) \([a-z]*\))$/\1 \2/p')
  [ $# -eq 2 ] || return 0
  number=$1 unit=$2
  case $unit in
    minute*) minutes=$number ;;
    hour*) minutes=$((number * 60)) ;;
    *) minutes=$((number * 1440)) ;;
  esac
  for one in 5 10 15 30 60; do
    [ "$one" -lt "$minutes" ] || break
  done
  parameters+=("SweepRate=$one")
  if [ "$one" -ne "$minutes" ]; then
    printf '%s: note: a sweep every %s minutes instead of rate(%s %s), which the template no longer offers.\n' "$name" "$one" "$number" "$unit" >&2
  fi
}

# Keys are lambda_traffic_mirror/VERSION-SHA256.zip; the first ones had no version.
version_of_key() {
  local version
  version=$(printf '%s\n' "$1" | sed -n 's#^.*/\([0-9][0-9A-Za-z.]*\)-[0-9a-f]\{64\}\.zip$#\1#p')
  printf '%s' "${version:-unknown}"
}

# The SHA-256 in a key as Lambda shows it, or nothing.
code_sha256_of_key() {
  local hex
  hex=$(printf '%s\n' "$1" | sed -n 's#^\(.*[/-]\)\{0,1\}\([0-9a-f]\{64\}\)\.zip$#\2#p')
  [ -z "$hex" ] || printf '%b' "$(printf '%s' "$hex" | sed 's/../\\x&/g')" | base64
}

look_at_stack
keep_sweep_rate
look_at_targets
look_at_filter
look_at_bucket

if [ -n "$code_key" ]; then
  look_at_zip
  version=$(version_of_key "$code_key")
else
  built=$("$here/../build_zip.sh") || {
    case $? in 6) exit 6 ;; esac
    die 7 'the zip could not be built (see above).'
  }
  printf '%s\n' "$built"
  sha256=$(printf '%s\n' "$built" | sed -n 's/^SHA-256 //p')
  version=$(sed -n 's/^VERSION = "\([0-9A-Za-z.]*\)"$/\1/p' "$here/../lambda_traffic_mirror.py")
  # The key changes with the content, which is how CloudFormation notices.
  code_key=lambda_traffic_mirror/${version:+$version-}$sha256.zip
  if ! ask s3 cp "$here/../lambda_traffic_mirror.zip" "s3://$bucket/$code_key" --only-show-errors; then
    give_up "the upload to bucket $bucket" 's3:PutObject, and kms:GenerateDataKey and kms:Decrypt where the bucket has a KMS key'
  fi
fi
printf 'Code s3://%s/%s\n' "$bucket" "$code_key"

# ${parameters[@]+...}: an empty array counts as unset in bash before 4.4, which
# macOS still has. Parameters that the template does not have are ignored.
result=0
aws cloudformation deploy \
  --stack-name "$stack" \
  --template-file "$here/template.yaml" \
  --capabilities CAPABILITY_IAM \
  --no-fail-on-empty-changeset \
  ${arguments[@]+"${arguments[@]}"} \
  --parameter-overrides "CodeBucket=$bucket" "CodeKey=$code_key" "CodeVersion=${version:-unknown}" \
  ${parameters[@]+"${parameters[@]}"} 2>"$scratch/complaint" || result=$?
cat "$scratch/complaint" >&2
if [ "$result" -ne 0 ]; then
  take_complaint "$scratch/complaint"
  # Without a code: the stack failed, or the call was not understood, or nobody answered.
  failure=$(kind_of_failure)
  case $error:$result:$complaint in
    :252:*) failure=wrong ;;
    :*'Failed to create'*) failure=other ;;
  esac
  show_failures
  read_stack
  case $status in
    ROLLBACK_COMPLETE) show_rolled_back ;;
    UPDATE_ROLLBACK_COMPLETE) printf '%s: stack %s is as it was before.\n' "$name" "$stack" >&2 ;;
    UPDATE_ROLLBACK_FAILED)
      printf '%s: the way back failed, too. Mend what failed, then: aws cloudformation continue-update-rollback --region %s --stack-name %s\n' "$name" "$region" "$stack" >&2
      ;;
    '' | CREATE_COMPLETE | UPDATE_COMPLETE) ;;
    *) printf '%s: stack %s is in %s.\n' "$name" "$stack" "$status" >&2 ;;
  esac
  case $failure in
    wrong) die 2 'aws refuses what it was given (see above).' ;;
    denied) die 10 'AWS denies the deployment (see above). docs/operations.md lists the rights it takes.' ;;
    credentials) die 5 'AWS does not accept the credentials (see above).' ;;
    later) die 14 'AWS did not answer (see above). Try again.' ;;
  esac
  die 1 'the stack was not deployed.'
fi

if [ "$execute" = no ]; then
  printf 'Nothing has been changed: the change set waits to be looked at and executed.\n'
  exit 0
fi

ask cloudformation describe-stacks --stack-name "$stack" --output table \
  --query 'Stacks[0].Outputs[].[OutputKey,OutputValue]' ||
  give_up "the state of stack $stack, which is deployed" cloudformation:DescribeStacks
printf '%s\n' "$answer"

# What runs is what was deployed?
read_stack
wanted=$(code_sha256_of_key "$code_key")
function=$(fact Output FunctionName)
if [ -z "$function" ]; then
  printf '%s: note: the stack shows no function, so its code could not be compared.\n' "$name" >&2
elif ask lambda get-function-configuration --function-name "$function" --query CodeSha256 --output text; then
  if [ -z "$wanted" ]; then
    printf 'CodeSha256 %s; the key of the zip does not tell what it should be.\n' "$answer"
  elif [ "$answer" = "$wanted" ]; then
    printf 'CodeSha256 %s, the same as that of the zip.\n' "$answer"
  else
    die 15 "the function runs code with CodeSha256 $answer, and the zip has $wanted."
  fi
else
  printf '%s\n%s: note: the code could not be compared (lambda:GetFunctionConfiguration).\n' "$complaint" "$name" >&2
fi
if [ -n "$was_key" ] && [ "$was_key" != "$code_key" ]; then
  printf 'The way back: deploy/deploy.sh --bucket %s --code-key %s' "$bucket" "$was_key"
  [ "$stack" = traffic-mirror ] || printf ' --stack %s' "$stack"
  printf ' --region %s\n' "$region"
fi
