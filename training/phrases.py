"""How people ask. Every list is cut in phrases for training and phrases that are only used in evaluation."""

# {x} is the label.
TAP = dict(
    zh=dict(
        train=["点击{x}", "点{x}", "点一下{x}", "请点击{x}", "帮我点{x}", "帮我点击{x}", "按{x}", "按一下{x}", "选择{x}", "打开{x}", "请打开{x}", "帮我打开{x}", "进入{x}", "点击“{x}”", "点“{x}”",
               "轻触{x}", "我想打开{x}", "我要点{x}", "点击{x}按钮", "请选择{x}", "请帮我打开{x}", "找到{x}并点击", "{x}", "去{x}", "点击屏幕上的{x}", "把{x}打开", "请按{x}", "切换到{x}", "我要进入{x}",
               "请你点一下{x}", "点开{x}", "查看{x}", "点击「{x}」", "请点「{x}」", "帮忙打开{x}", "单击{x}", "点击写着{x}的地方", "打开{x}看看", "点一下“{x}”吧", "麻烦点击{x}"],
        test=["请帮我点一下{x}", "麻烦打开{x}", "我想点{x}", "请进入{x}", "点击一下{x}", "帮我按一下“{x}”", "打开“{x}”", "请单击{x}"]),
    en=dict(
        train=["tap {x}", "Tap {x}", "click {x}", "Click {x}", "click on {x}", "tap on {x}", "press {x}", "Press {x}", "open {x}", "Open {x}", "please open {x}", "Please tap {x}", "select {x}", "Select {x}", "go to {x}",
               "Go to {x}", "choose {x}", "hit {x}", "tap the {x} button", "Click the {x} button", "Tap \"{x}\"", "open \"{x}\"", "I want to open {x}", "find {x} and tap it", "{x}", "touch {x}", "enter {x}", "Can you open {x}?",
               "please press {x}", "Could you tap {x}?", "switch to {x}", "open {x} please", "Help me open {x}", "tap '{x}'", "show me {x}", "I need to tap {x}", "push {x}", "click '{x}'", "Tap {x}.", "Open {x}."],
        test=["please click {x}", "Please select {x}", "Can you tap {x}?", "I want to tap {x}", "tap on \"{x}\"", "Help me press {x}", "Could you open {x}?", "please go to {x}"]))

SWITCH = dict(
    zh=dict(train=["打开{x}开关", "关闭{x}开关", "切换{x}开关", "点击{x}的开关", "点{x}右边的开关", "把{x}的开关打开", "把{x}的开关关掉", "点一下{x}开关"],
            test=["请打开{x}的开关", "帮我点{x}开关", "帮我关闭{x}开关"]),
    en=dict(train=["toggle {x}", "Toggle {x}", "turn on the {x} switch", "turn off the {x} switch", "tap the {x} switch", "flip the {x} switch", "click the switch of {x}", "Toggle the {x} switch"],
            test=["please toggle {x}", "Turn on the {x} switch please", "click the {x} switch"]))

LONG = dict(
    zh=dict(train=["长按{x}", "请长按{x}", "长按一下{x}", "按住{x}不放", "帮我长按{x}", "长按“{x}”"], test=["请帮我长按{x}", "长按屏幕上的{x}"]),
    en=dict(train=["long press {x}", "Long press {x}", "long-press {x}", "press and hold {x}", "hold {x}", "please long press {x}"], test=["long press on {x}", "Please press and hold {x}"]))

DOUBLE = dict(
    zh=dict(train=["双击{x}", "请双击{x}", "连续点击两次{x}", "双击一下{x}", "帮我双击{x}", "双击“{x}”"], test=["请帮我双击{x}", "双击屏幕上的{x}"]),
    en=dict(train=["double tap {x}", "Double tap {x}", "double-tap {x}", "double click {x}", "tap {x} twice", "please double tap {x}"], test=["double tap on {x}", "Please double click {x}"]))

BACK = dict(
    zh=dict(train=["返回", "返回上一页", "后退", "返回上一级", "回到上一页", "退回去", "请返回", "返回上一个页面", "按返回键", "退回上一步", "往回退一页", "帮我返回"], test=["请返回上一页", "回到上一级", "帮我返回上一个页面"]),
    en=dict(train=["go back", "Go back", "back", "return to the previous page", "press back", "Press the back key", "go back one page", "previous page", "please go back", "navigate back", "back to the previous screen"], test=["Please return to the previous page", "go back to the previous screen", "Back please"]))

HOME = dict(
    zh=dict(train=["回到桌面", "返回桌面", "回桌面", "返回主屏幕", "回到主屏幕", "按主页键", "退到桌面", "请回到桌面", "切回桌面", "显示桌面", "回到手机桌面"], test=["请返回桌面", "帮我回到主屏幕", "退回到桌面"]),
    en=dict(train=["go home", "Go to the home screen", "home screen", "press home", "back to the home screen", "return to the home screen", "press the home key", "show the home screen", "please go to the home screen", "exit to home screen"], test=["take me to the home screen", "Please press home", "Return to home screen please"]))

SWIPES = dict(      # phrase lists per direction of the finger
    up=dict(zh=dict(train=["向上滑动", "上滑", "往上滑", "向下滚动", "往下翻", "看看下面的内容", "向上滑一下", "下一屏"], test=["请向上滑动", "帮我往下翻", "往上滑动一下"]),
            en=dict(train=["swipe up", "Swipe up", "scroll down", "Scroll down", "scroll down the page", "see more below", "please scroll down"], test=["Please swipe up", "scroll further down", "scroll down a bit"])),
    down=dict(zh=dict(train=["向下滑动", "下滑", "往下滑", "向上滚动", "往上翻", "看看上面的内容", "向下滑一下", "下拉刷新"], test=["请向下滑动", "帮我往上翻", "往下滑动一下"]),
              en=dict(train=["swipe down", "Swipe down", "scroll up", "Scroll up", "scroll up the page", "pull down to refresh", "please scroll up"], test=["Please swipe down", "scroll further up", "scroll up a bit"])),
    left=dict(zh=dict(train=["向左滑动", "左滑", "往左滑", "向左滑一下", "翻到右边一页"], test=["请向左滑动", "往左滑动一下"]),
              en=dict(train=["swipe left", "Swipe left", "swipe to the left", "please swipe left", "next page on the right"], test=["Please swipe to the left", "swipe left once"])),
    right=dict(zh=dict(train=["向右滑动", "右滑", "往右滑", "向右滑一下", "翻到左边一页"], test=["请向右滑动", "往右滑动一下"]),
               en=dict(train=["swipe right", "Swipe right", "swipe to the right", "please swipe right", "next page on the left"], test=["Please swipe to the right", "swipe right once"])))

SWIPE_POINTS = dict(up=("500,750", "500,250"), down=("500,250", "500,750"), left=("800,500", "200,500"), right=("200,500", "800,500"))

TYPE = dict(
    zh=dict(train=["输入{t}", "输入“{t}”", "请输入{t}", "请输入“{t}”", "在输入框中输入{t}", "打字：{t}", "帮我输入{t}", "填写{t}", "键入“{t}”", "输入文字{t}", "写上“{t}”"], test=["帮我输入“{t}”", "请在输入框中输入“{t}”", "打字：“{t}”"]),
    en=dict(train=["type {t}", "Type {t}", "type \"{t}\"", "Type \"{t}\"", "enter the text {t}", "enter \"{t}\"", "input {t}", "please type {t}", "write \"{t}\"", "fill in {t}", "Type in {t}"], test=["please type \"{t}\"", "input \"{t}\"", "Please enter the text \"{t}\""]))

WAIT = dict(
    zh=dict(train=["等待", "等一下", "等页面加载完", "稍等", "等待加载", "等几秒", "请等待页面加载"], test=["请等一下", "等待页面加载完成", "请稍等"]),
    en=dict(train=["wait", "Wait", "wait a moment", "wait for the page to load", "hold on", "please wait", "wait until it is loaded"], test=["Please wait a moment", "wait for loading", "wait until the page is loaded"]))

FINISH = dict(
    zh=dict(train=["任务完成了", "可以结束了", "结束任务", "完成了，结束吧", "任务已经完成", "停止任务"], test=["请结束任务", "任务完成了，结束吧"]),
    en=dict(train=["the task is done", "finish the task", "we are done", "end the task", "stop here, it is done", "task completed"], test=["please finish the task", "the task is done, end it"]))

LOOK = dict(
    zh=dict(train=["屏幕上有什么？", "这个界面上有什么？", "描述一下这个屏幕", "截图里有什么", "你看到了什么？", "读一下屏幕上的按钮", "界面上有哪些选项？"], test=["请描述一下屏幕", "屏幕上有哪些选项？"]),
    en=dict(train=["What is on the screen?", "what do you see?", "describe the screen", "What is in the screenshot?", "read the labels on the screen", "which options are there?", "list what is on the screen"], test=["please describe the screen", "What do you see on the screen?"]))

WHATAT = dict(
    zh=dict(train=["坐标[{p}]是什么？", "[{p}]处是什么", "屏幕上[{p}]这个位置写着什么？", "[{p}]是什么"], test=["请问[{p}]处是什么？"]),
    en=dict(train=["What is at [{p}]?", "what is written at [{p}]", "[{p}] is what?", "Which label is at [{p}]?"], test=["tell me what is at [{p}]"]))

TYPED_ZH = """你好 早上好 晚上好 明天见 生日快乐 我到了 谢谢 在吗 今天几点下班 周末去爬山 我马上到 好的没问题 吃饭了吗 路上小心 新年快乐 收到 辛苦了 晚点联系 北京天气 上海迪士尼 附近的火锅店 无线耳机 洗发水
机械键盘 周杰伦 红烧肉做法 北京到上海高铁 感冒怎么办 儿童绘本 手机支架 咖啡豆 羽毛球拍 冬季外套 今晚八点见 帮我留个座位 会议改到三点 请发我地址 我在楼下等你 密码是多少 电影几点开始""".split()
TYPED_EN = """hello|good morning|see you tomorrow|happy birthday|thank you|on my way|I am here|call me later|what time is it|weather in Paris|wireless headphones|running shoes|coffee near me|best pizza|flight to Tokyo|cheap hotels|rain jacket|hello world|good night|meeting at three|send me the address|see you at eight|happy new year|where are you|be right back|learn piano|chocolate cake recipe|desk lamp|phone holder|winter coat""".split("|")
SURNAMES, GIVEN = "赵钱孙李周吴郑王冯陈蒋沈韩杨朱秦许何吕张孔曹严华金魏陶姜", "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰红建文辉力"
