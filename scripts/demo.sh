#!/usr/bin/env bash
# The main job from text to translations, on the sample corpus that is shipped: what `make demo` runs. It can be interrupted and started again.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

run=runs/demo/token_task
start=$SECONDS

say() { printf '\n== %s\n' "$*"; }

say "1/4 Prepare the shipped sample corpus (sample/ -> data/demo/sample)"
python -m data_prep.run --recipe demo --preset sample

say "2/4 Train a mixture of experts: tokens choose in the encoder, the target language chooses in the decoder (-> $run)"
mmt train demo

say "3/4 Score all directions"
mmt evaluate "$run"

say "4/4 Translate"
for sentence in "Open a new window" "Your password was saved."; do
  for language in de ru el; do
    printf '%s  %s: ' "$sentence" "$language"
    mmt translate --model "$run" --to "$language" <<< "$sentence"
  done
done

say "Done in $(((SECONDS - start) / 60)) minutes. This model is tiny and has seen little: docs/results.md shows what hours bring (make train RECIPE=software50)."
