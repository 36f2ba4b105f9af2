{{/* What a pod does before it is ended. Ray is then ended by name, for the shell that the operator starts it from hears no signal. */}}
{{- define "gmpo.lifecycle" -}}
{{- with include "gmpo.beforeTheEnd" . -}}
lifecycle:
  preStop:
    exec:
      command:
        - bash
        - -c
        - |
          {{- . | nindent 10 }}
          ray stop
{{- end }}
{{- end -}}

{{/* Commands by which checkpoints are written first; none where nothing is trained. Takes root, section and part. */}}
{{- define "gmpo.beforeTheEnd" -}}
{{- $run := "" -}}
{{- if hasPrefix "training-" .part }}{{ $run = include "gmpo.runDir" .root }}{{ end -}}
{{- if eq .part "training-head" -}}
{{- /* The run ends as one to be tried again: the job is not done, whoever took its node. */ -}}
gmpo stop {{ $run }} --here --resubmit && flock {{ $run }}/driver.lock true
{{- else if eq .part "training-worker" -}}
{{- /* The ranks that write the checkpoint are on workers, which stay until the run lets go of its directory. A run that nobody asks to end
goes on without this worker: the head asks in its own first seconds, and NFS may hide that for a minute. */ -}}
waited=0
until flock --shared --nonblock {{ $run }}/driver.lock true; do
  [ -e {{ $run }}/stop ] || (( waited++ < {{ min 60 (div (int .section.terminationGracePeriodSeconds) 2) }} )) || break
  sleep 1
done
{{- else if eq .part "cluster-head" -}}
{{- /* Whose jobs these are it does not know: each gets the signal on which a run writes a checkpoint. */ -}}
python - <<'END'
{{ .root.Files.Get "files/stop_jobs.py" | trim }}
END
{{- end -}}
{{- end -}}
