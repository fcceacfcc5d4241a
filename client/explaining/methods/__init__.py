"""Methods of explanation. Each is one file here with a class that fulfils `subject.Method` and owns its settings.

To add one: that file, one test, and one line below; a site adds its own through the entry-point group ``salus.explanations``.
"""

from salus.common.registry import Registry

METHODS = Registry(
    "method of explanation",
    "salus.explanations",
    {
        "grad-cam": "salus.client.explaining.methods.grad_cam:GradCam",
        "gradient-shap": "salus.client.explaining.methods.gradient_shap:GradientShap",
        "integrated-gradients": "salus.client.explaining.methods.integrated_gradients:IntegratedGradients",
        "kernel-shap": "salus.client.explaining.methods.kernel_shap:KernelShap",
        "lime": "salus.client.explaining.methods.lime:Lime",
        "occlusion": "salus.client.explaining.methods.occlusion:Occlusion",
        "tree-shap": "salus.client.explaining.methods.tree_shap:TreeShap",
    },
)
