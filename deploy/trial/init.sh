#!/bin/sh
# Makes a trial consortium in a folder: init.sh FOLDER. A second call leaves a finished one as it is.
# Each site gets phantom images as its data set `phantom`. Real members make their keys themselves, each on its own machine.
set -eu
cd "$1"
[ ! -e ready ] || exit 0
rm -rf consortium coordinator kits phantoms site-*
salus consortium init consortium --name "Trial"
salus server init coordinator --name "Trial coordinator" --url "${URL:-https://coordinator:8443}" --listen "${LISTEN:-0.0.0.0}"
salus consortium add-site consortium coordinator/coordinator.request
for n in 1 2 3 4 5; do
    salus client init "site-$n" --name "Hospital $n"
    salus consortium add-site consortium "site-$n/site.request"
done
salus consortium issue consortium kits
salus server join coordinator kits/coordinator.kit
salus phantoms phantoms
for n in 1 2 3 4 5; do
    salus client join "site-$n" "kits/site-$n.kit"
    salus dataset add "site-$n" phantom "phantoms/dicom/hospital$((n - 1))" --labels ../labels.csv --yes
done
touch ready
