"""Where every artefact comes from: code digests (`source`), manifests (`manifest`), verdicts (`verdict`), the one way in which
stages run (`execute`) and what the workflow engine needs to agree with all that (`tokens`). Imports no torch.
"""
