"""The model package: a finished model with everything that is needed to use it and to check where it came from.

    manifest.json            every file with its size and SHA-256, signed by the coordinator
    roster.json, job.json    as the consortium and the coordinator signed them
    model.safetensors        the trained parameters; for a model from sums ``model.json``, signed
    start.json               for a job with a start: names, shapes and hashes of the weights with which it began
    inputs.json              what the model takes and gives: fields, classes, units, transforms
    card.json, privacy.json  metrics and privacy of the patients, with the signed heads of the sites' ledgers
    evaluation.json          the evaluation at the sites, and by subgroup
    transcript.jsonl         what the sites signed during the job, unless it is too large
    versions.json, sbom.json software with versions and licences
    documentation.json       facts that regulators ask for, each from a record
    model-card.md            the records for people
    onnx, bundle, trees      the model as other programs read it
    audit.json, release.json added by a release; endorsements by sites

A package is a folder or a zip with the same files. Nothing in it is code, and no file is ever written where a name in it says.
"""
