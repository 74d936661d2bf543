#!/usr/bin/env bash
# Builds the zip, uploads it and deploys template.yaml. See usage below.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'USAGE'
Usage: deploy/deploy.sh --bucket BUCKET --filter tmf-... --targets tmt-...[,tmt-...]
                        [--stack NAME] [--region REGION] [--code-key KEY]
                        [Parameter=Value ...]

Builds lambda_traffic_mirror.zip, uploads it to the bucket under a key that
contains its SHA-256, deploys the CloudFormation stack and prints its outputs.
Run it again to upgrade or to change a parameter.

  --bucket BUCKET   S3 bucket for the zip, in the Region of the stack
  --filter ID       traffic mirror filter that says which packets are mirrored
  --targets IDS     traffic mirror targets of your sensors, separated by commas
  --stack NAME      name of the stack (default: traffic-mirror)
  --region REGION   Region of the instances (default: that of the AWS CLI)
  --code-key KEY    deploy a zip that is in the bucket already, instead of
                    building one: the way back to an earlier version
  Parameter=Value   any other parameter of template.yaml, for example
                    LocalZoneOnly=false AlarmTopicArn=arn:aws:sns:...
                    A parameter that is left out keeps the value that the stack
                    has; a new stack takes the template's default.

Needs the AWS CLI with credentials that may write to the bucket and create the
resources of the stack, and what build_zip.sh needs: python3 with pip.
USAGE
}

# Explains a wrong call and stops. 2 is a wrong call, anything else a failure
# of what was called.
wrong() {
  printf 'deploy.sh: %s\n\n' "$1" >&2
  usage >&2
  exit 2
}

missing() {
  printf 'deploy.sh: %s\n' "$1" >&2
  exit 2
}

bucket='' filter='' targets='' stack=traffic-mirror region='' code_key=''
parameters=()

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --bucket | --filter | --targets | --stack | --region | --code-key)
      if [ $# -lt 2 ] || [ -z "$2" ] || [ "${2#--}" != "$2" ]; then
        wrong "$1 needs a value"
      fi
      case $1 in
        --bucket) bucket=${2#s3://} ;;
        --filter) filter=$2 ;;
        --targets) targets=${2//[[:space:]]/} ;;
        --stack) stack=$2 ;;
        --region) region=$2 ;;
        --code-key) code_key=$2 ;;
      esac
      shift 2
      ;;
    CodeBucket=* | CodeKey=* | FilterId=* | Targets=*)
      wrong "${1%%=*} has an option of its own: --bucket, --code-key, --filter or --targets"
      ;;
    [A-Za-z]*=*)
      sed -n '/^Parameters:/,/^Conditions:/p' "$here/template.yaml" | grep -Fx "  ${1%%=*}:" >/dev/null ||
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
[ -n "$filter" ] || wrong '--filter is missing'
[ -n "$targets" ] || wrong '--targets is missing'

command -v aws >/dev/null ||
  missing 'the aws command is missing. Install the AWS CLI: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html'
if [ -z "$code_key" ]; then
  command -v python3 >/dev/null || missing 'python3 is missing. build_zip.sh needs it.'
fi

# One Region for every call below, and a clear word if there is none.
region=${region:-${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}}
[ -n "$region" ] || missing 'no Region is set. Give --region, or set one with: aws configure set region REGION'
export AWS_REGION=$region AWS_DEFAULT_REGION=$region
# Version 2 of the AWS CLI would stop in a pager.
export AWS_PAGER=''

if ! account=$(aws sts get-caller-identity --query Account --output text); then
  missing 'the AWS CLI has no valid credentials (see the message above). Run: aws configure, or aws sso login'
fi
printf 'Account %s, Region %s, stack %s\n' "$account" "$region" "$stack"

if [ -z "$code_key" ]; then
  "$here/../build_zip.sh"
  zip=$here/../lambda_traffic_mirror.zip
  # The key changes with the content, which is how CloudFormation notices.
  sha256=$(python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$zip")
  code_key=lambda_traffic_mirror/$sha256.zip
  aws s3 cp "$zip" "s3://$bucket/$code_key" --only-show-errors
fi
printf 'Code s3://%s/%s\n' "$bucket" "$code_key"

# ${parameters[@]+...}: an empty array counts as unset in bash before 4.4, which
# macOS still has.
if ! aws cloudformation deploy \
  --stack-name "$stack" \
  --template-file "$here/template.yaml" \
  --capabilities CAPABILITY_IAM \
  --no-fail-on-empty-changeset \
  --parameter-overrides "CodeBucket=$bucket" "CodeKey=$code_key" "FilterId=$filter" "Targets=$targets" \
  ${parameters[@]+"${parameters[@]}"}; then
  cat >&2 <<EXPLAIN
deploy.sh: the stack was not deployed. What failed:
  aws cloudformation describe-stack-events --region $region --stack-name $stack --query "StackEvents[?contains(ResourceStatus,'FAILED')].[LogicalResourceId,ResourceStatusReason]" --output table
A stack whose first deployment failed (ROLLBACK_COMPLETE) has to be deleted before the next try:
  aws cloudformation delete-stack --region $region --stack-name $stack
EXPLAIN
  exit 1
fi

aws cloudformation describe-stacks \
  --stack-name "$stack" \
  --query 'Stacks[0].Outputs[].[OutputKey,OutputValue]' \
  --output table
